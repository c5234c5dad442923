"""`flagdeploy dequant` on files that lie: refused by name and reason, nothing written anywhere."""

import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoint.deepseek_layout import INDEX, deepseek
from typer.testing import CliRunner

import flagdeploy.workflows.dequant  # noqa: F401 - the memory of modules is not that of files
from flagdeploy.checkpoint.safetensors_file import MAX_HEADER_BYTES
from flagdeploy.cli.app import app

FIRST = "model-00001-of-000003.safetensors"
NORM = "model.layers.0.input_layernorm.weight"


def header_of(folder: Path) -> tuple[dict[str, Any], bytes]:
    whole = (folder / FIRST).read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    return json.loads(whole[8:start]), whole[start:]


def rewrite(folder: Path, text: str, data: bytes, length: int | None = None) -> None:
    raw = text.encode()
    size = len(raw) if length is None else length
    (folder / FIRST).write_bytes(size.to_bytes(8, "little") + raw + data)


def longer(folder: Path, length: int) -> None:
    header, data = header_of(folder)
    rewrite(folder, json.dumps(header), data, length)


def overlap(folder: Path) -> None:
    header, data = header_of(folder)
    begin, end = header[NORM]["data_offsets"]
    header[NORM]["data_offsets"] = [begin - 8, end - 8]
    rewrite(folder, json.dumps(header), data)


def claim_tensors(folder: Path) -> None:
    """10**9 tensors of 60 bytes of header each, in a file that is as large as it says."""
    with (folder / FIRST).open("r+b") as file:
        file.write((60 * 10**9).to_bytes(8, "little"))
        file.truncate(61 * 10**9)


def claim_elements(folder: Path) -> None:
    header, data = header_of(folder)
    header[NORM]["shape"] = [10**9, 10**9]
    rewrite(folder, json.dumps(header), data)


def twice(folder: Path) -> None:
    header, data = header_of(folder)
    text = json.dumps(header)
    rewrite(folder, f"{text[:-1]}, {json.dumps(NORM)}: {json.dumps(header[NORM])}}}", data)


def nest(folder: Path) -> None:
    rewrite(folder, '{"a":' * 100_000, b"")


def rename_tensor(folder: Path, name: str) -> None:
    header, data = header_of(folder)
    rewrite(folder, json.dumps({name if key == NORM else key: header[key] for key in header}), data)


def cut(folder: Path, size: int) -> None:
    os.truncate(folder / FIRST, size)


def index(folder: Path, change: Callable[[dict[str, str]], Any]) -> None:
    content = json.loads((folder / INDEX).read_text())
    change(content["weight_map"])
    (folder / INDEX).write_text(json.dumps(content))


def index_twice(folder: Path) -> None:
    text = (folder / INDEX).read_text()
    key = json.dumps(NORM)
    (folder / INDEX).write_text(text.replace(f"{key}:", f'{key}: "x.safetensors", {key}:'))


def link_out(folder: Path) -> None:
    (folder / FIRST).unlink()
    (folder / FIRST).symlink_to("/etc/passwd")


HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "length beyond the file": (
        lambda folder: longer(folder, 10_000_000),
        f"{FIRST}: torn: the header needs 10000008 bytes, the file has ",
    ),
    "length beyond 63 bits": (
        lambda folder: longer(folder, 2**64 - 1),
        f"{FIRST}: header: header of {2**64 - 1} bytes is beyond the limit of {MAX_HEADER_BYTES}",
    ),
    "length within the header": (
        lambda folder: longer(folder, 50),
        f"{FIRST}: header: header is not valid JSON: ",
    ),
    "a billion tensors": (
        claim_tensors,
        f"{FIRST}: header: header of 60000000000 bytes is beyond the limit of {MAX_HEADER_BYTES}",
    ),
    "more elements than bytes": (
        claim_elements,
        f"{FIRST}: header: tensor {NORM} (BF16 [1000000000, 1000000000]) does not fill",
    ),
    "overlapping offsets": (overlap, f" {FIRST}: header: tensor "),
    "a tensor twice": (
        twice,
        f"{FIRST}: header: header is not valid JSON: key '{NORM}' appears twice",
    ),
    "a tensor twice in the index": (
        index_twice,
        f"/{INDEX}: is not valid JSON: key '{NORM}' appears twice",
    ),
    "nested deeply": (nest, f"{FIRST}: header: header is nested too deeply"),
    "a tensor with the name of a path": (
        lambda folder: rename_tensor(folder, "../../evil"),
        f"{FIRST}: foreign: holds ../../evil unknown to the index",
    ),
    "a tensor whose name clears the screen": (
        lambda folder: rename_tensor(folder, "\x1b[2J"),
        f"{FIRST}: header: tensor name '\\x1b[2J' is empty, too long or holds control characters",
    ),
    "a shard above the folder": (
        lambda folder: index(folder, lambda names: names.update({NORM: f"../{FIRST}"})),
        f": refuses the file name '../{FIRST}': it leaves the folder",
    ),
    "a shard elsewhere": (
        lambda folder: index(folder, lambda names: names.update({NORM: "/etc/passwd"})),
        ": refuses the file name '/etc/passwd': it leaves the folder",
    ),
    "a shard that is a link": (link_out, f"{FIRST}: is a link to /etc/passwd, outside the"),
    "a shard of a name that no file has": (
        lambda folder: index(folder, lambda names: names.update({NORM: "n" * 300})),
        f": refuses the file name '{'n' * 80}': File name too long",
    ),
    "cut in the data": (lambda folder: cut(folder, 5000), f"{FIRST}: torn: the header describes "),
    "cut in the header": (lambda folder: cut(folder, 100), f"{FIRST}: torn: the header needs "),
    "cut in the length": (
        lambda folder: cut(folder, 4),
        f"{FIRST}: torn: 4 bytes cannot hold a safetensors header",
    ),
}


@pytest.mark.parametrize("to", ["bf16", "w4afp8"])
@pytest.mark.parametrize("case", HOSTILE)
def test_refused_with_the_file_and_the_reason(tmp_path: Path, case: str, to: str) -> None:
    damage, reason = HOSTILE[case]
    source = deepseek().write(tmp_path / "R1")
    damage(source)
    before = listing(tmp_path)
    options = ["--act-scales", "1"] if to == "w4afp8" else []
    tracemalloc.start()
    try:
        done = CliRunner().invoke(app, ["dequant", "--ckpt", str(source), "--to", to, *options])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert done.exit_code == 1
    assert done.stderr.startswith(f"error: {source}")
    assert reason in done.stderr
    assert "\x1b" not in done.stderr
    assert listing(tmp_path) == before
    assert peak < 8 << 20


def test_a_name_like_a_path_is_only_a_name(tmp_path: Path) -> None:
    source = deepseek().write(tmp_path / "R1")
    rename_tensor(source, "../../evil")
    index(source, lambda names: names.update({"../../evil": names.pop(NORM)}))
    done = CliRunner().invoke(app, ["dequant", "--ckpt", str(source)])
    assert done.exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"R1", "R1-bf16"}
    assert "../../evil" in header_of(tmp_path / "R1-bf16")[0]


def listing(folder: Path) -> list[tuple[Path, int, int]]:
    found = [(path, path.lstat()) for path in sorted(folder.rglob("*"))]
    return [(path, stat.st_size, stat.st_mtime_ns) for path, stat in found]
