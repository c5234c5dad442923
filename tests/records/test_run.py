import json
import threading
from pathlib import Path

import pytest

from flagdeploy.config.secret import Secret
from flagdeploy.errors import FlagdeployError, UsageError
from flagdeploy.records.events import Event
from flagdeploy.records.files import write_private
from flagdeploy.records.lock import deployment_lock
from flagdeploy.records.mask import Mask
from flagdeploy.records.run import Run, latest, runs

CANARY = "hf_canary/0123+456789"


def test_a_run_is_the_users_alone(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "runs", "tiny")
    run.write("config.yaml", "a: 1\n")
    run.log(0, "hello\n")
    run.event(Event("start", "rank 0", "10.0.0.1"))
    assert run.folder.stat().st_mode & 0o777 == 0o700
    for path in run.folder.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0


def test_no_secret_gets_in_whatever_its_form(tmp_path: Path) -> None:
    import base64
    from urllib.parse import quote

    run = Run.create(tmp_path, "tiny", [Secret(CANARY), Secret("short")])
    forms = (CANARY, quote(CANARY, safe=""), base64.b64encode(CANARY.encode()).decode())
    run.write("config.yaml", "\n".join(forms))
    run.log(0, f"token={CANARY}")
    run.event(Event("start", CANARY))
    run.write_json("result.json", {"error": CANARY, "word": "short"})
    for path in run.folder.rglob("*"):
        if path.is_file():
            assert not any(form in path.read_text() for form in forms)
            assert "***" in path.read_text()
    assert json.loads((run.folder / "result.json").read_text())["word"] == "short"


def test_events_are_lines_of_json_with_the_fields_that_are_set(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "tiny")
    run.event(Event("pull", "x", done=1, total=2, unit="B"))
    run.event(Event("wait", "ü", "h"))
    first, second = (
        json.loads(line) for line in (run.folder / "events.jsonl").read_text().splitlines()
    )
    assert first.keys() == {"time", "stage", "message", "done", "total", "unit"}
    assert (second["message"], second["host"]) == ("ü", "h")


def test_events_of_many_threads_stay_whole(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "tiny")
    work = [
        threading.Thread(target=lambda: [run.event(Event("x", "y" * 500)) for _ in range(50)])
        for _ in range(4)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    lines = (run.folder / "events.jsonl").read_text().splitlines()
    assert len([json.loads(line) for line in lines]) == 200


def test_the_latest_run_of_a_deployment(tmp_path: Path) -> None:
    assert latest(tmp_path / "none") is None
    for name in (
        "20260101T000000Z-tiny-aaaa",
        "20260102T000000Z-tiny-bbbb",
        "20260103T000000Z-tiny-two-cccc",
        "not-a-run",
    ):
        (tmp_path / name).mkdir()
    assert [path.name[-4:] for path in runs(tmp_path, "tiny")] == ["aaaa", "bbbb"]
    newest = latest(tmp_path, "tiny")
    assert newest is not None and newest.id == "20260102T000000Z-tiny-bbbb"
    newest = latest(tmp_path)
    assert newest is not None and newest.id == "20260103T000000Z-tiny-two-cccc"


def test_a_run_that_was_just_made_is_found(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "tiny-two")
    assert [path.name for path in runs(tmp_path, "tiny-two")] == [run.id]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_private(path, b"old")
    with pytest.raises(TypeError):
        write_private(path, "not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_a_mask_without_secrets_changes_nothing() -> None:
    assert Mask()("text") == "text"


def test_one_at_a_time_for_each_deployment(tmp_path: Path) -> None:
    import os

    with deployment_lock(tmp_path, "tiny"), deployment_lock(tmp_path, "other"):
        with pytest.raises(FlagdeployError) as raised, deployment_lock(tmp_path, "tiny"):
            pass
        assert str(raised.value) == (
            f"another flagdeploy (process {os.getpid()}) is working on tiny"
        )
    with deployment_lock(tmp_path, "tiny"):
        pass


@pytest.mark.parametrize("name", ["../victim", "/tmp/victim", "a/b", "..", ""])
def test_a_lock_lies_in_its_folder(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    with pytest.raises(UsageError, match="is no name of a deployment"):
        deployment_lock(tmp_path / "runs", name).__enter__()
    assert victim.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [victim]
