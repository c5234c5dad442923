"""Traces beside a rank: listed and read in pieces, never out of their folder."""

import json
import subprocess
import sys
from pathlib import Path

from flagdeploy.operators import trace_files


def ask(request: dict[str, object]) -> "subprocess.CompletedProcess[bytes]":
    text = Path(trace_files.__file__).read_text()
    argv = [sys.executable, "-I", "-c", text, json.dumps(request)]
    return subprocess.run(argv, capture_output=True)


def test_traces_are_listed_with_their_sizes(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    for name in ("a.json", "inner/b.pt.trace.json.gz", "table.txt", ".unfinished.json.gz"):
        (tmp_path / name).write_bytes(b"12345")
    (tmp_path / "link.json").symlink_to("/etc/passwd")
    listed = json.loads(ask({"folder": str(tmp_path)}).stdout)
    assert listed["files"] == {"a.json": 5, "inner/b.pt.trace.json.gz": 5}
    assert listed["now"] > 1e9


def test_a_folder_that_is_not_there_yet_holds_none(tmp_path: Path) -> None:
    assert json.loads(ask({"folder": str(tmp_path / "later")}).stdout)["files"] == {}


def test_pieces_are_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.json.gz").write_bytes(bytes(range(256)))
    asked = {"folder": str(tmp_path), "file": "a.json.gz", "offset": 250, "length": 100}
    assert ask(asked).stdout == bytes(range(250, 256))


def test_no_name_leads_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    folder = tmp_path / "traces"
    folder.mkdir()
    (folder / "link.json").symlink_to(tmp_path / "secret")
    for name in ("../secret", str(tmp_path / "secret"), "link.json", "."):
        done = ask({"folder": str(folder), "file": name, "offset": 0, "length": 9})
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"leads out of" in done.stderr
