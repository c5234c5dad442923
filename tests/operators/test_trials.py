"""Trials are watched, ended, written down and not run twice; real processes, without a model."""

import json
import sys
from pathlib import Path

import pytest

from flagdeploy.errors import EngineError, UsageError
from flagdeploy.operators.outcome import Bounds
from flagdeploy.operators.trials import Limits, Trials

PROGRAM = """
import json, pathlib, sys, time
request = json.loads(pathlib.Path(sys.argv[1]).read_text())
out = pathlib.Path(sys.argv[2])
names = request.get("include") or ["none"]

def beat(stage, compiled=0):
    part = out.with_suffix(".part")
    part.write_text(json.dumps({"stage": stage, "compiled": compiled, "cpu_s": 0.0}))
    part.replace(out.with_suffix(".beat"))

with open("started", "a") as file:
    file.write(",".join(names) + "\\n")
beat("pass 1 of 3")
if "hangs" in names:
    time.sleep(60)
if "compiles" in names:
    for kernel in range(600):
        beat("pass 1 of 3", kernel)
        time.sleep(0.1)
if "compiles_once" in names and not pathlib.Path("kernels").exists():
    pathlib.Path("kernels").touch()
    for kernel in range(600):
        beat("pass 1 of 3", kernel)
        time.sleep(0.1)
if "crashes" in names:
    raise ValueError("no such layout")
seconds = 9.0 if "slow" in names else 1.0
out.write_text(json.dumps({"positions": 4, "not_finite": 0, "identical": True, "kl": 0.0,
                           "top1": 1.0, "seconds": seconds}))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trials(folder: Path, model: str = "m", silent: float = 3, whole: float = 5) -> Trials:
    made = Trials(
        folder,
        {"model": model},
        limits=Limits(silent, whole),
        jobs=4,
        program=(sys.executable, "-c", PROGRAM),
    )
    made.native_s, made.bounds = 1.0, Bounds(1e-3, 3.0)
    return made


def started(folder: Path) -> list[str]:
    return (folder / "started").read_text().split()


def test_crash_hang_slow_and_slow_compilation_are_told_apart(folder: Path) -> None:
    kinds = ["fine", "crashes", "hangs", "compiles", "compiles_once", "slow"]
    running = trials(folder)
    found = running.outcomes([frozenset([kind]) for kind in kinds])
    running.stop()
    assert {kind: outcome.kind for kind, outcome in zip(kinds, found, strict=True)} == {
        "fine": "passed",
        "crashes": "crashed",
        "hangs": "hung",
        "compiles": "compiling",
        "compiles_once": "passed",
        "slow": "slow",
    }
    assert found[1].evidence == "exit 1 in pass 1 of 3; ValueError: no such layout"
    assert found[2].evidence == "no progress for 3 s in pass 1 of 3, idle"
    assert found[3].evidence == "in pass 1 of 3 after 5 s, making progress"
    tries = {kind: started(folder).count(kind) for kind in kinds}
    # what compiles gets three chances, and a slow one is seen again with nothing beside it
    assert tries == dict.fromkeys(kinds, 1) | {"compiles": 3, "compiles_once": 2, "slow": 2}


def test_finished_trials_are_remembered_and_a_torn_line_is_not(folder: Path) -> None:
    first = trials(folder)
    first.native("native")
    before = first.outcomes([frozenset(["fine"]), frozenset(["crashes", "fine"])])
    first.stop()
    with (folder / "trials.jsonl").open("a") as file:
        file.write('{"name": "torn", "verd')
    again = trials(folder)
    again.native("native")
    after = again.outcomes([frozenset(["fine"]), frozenset(["crashes", "fine"])])
    more = again.outcomes([frozenset(["other"])])
    again.stop()
    assert after == before
    assert more[0].passed
    assert sorted(started(folder)) == ["crashes,fine", "fine", "none", "other"]
    lines = (folder / "trials.jsonl").read_text().splitlines()
    assert [json.loads(line).get("name") for line in lines[-1:]] == ["other"]


def test_what_is_left_is_tried_again_when_something_else_is_left_out(folder: Path) -> None:
    running = trials(folder)
    for names in (["a"], ["b", "a"], ["a", "b"]):
        assert running.excluding(names).passed
    running.stop()
    assert len(started(folder)) == 2


def test_another_search_in_the_same_folder_is_refused(folder: Path) -> None:
    trials(folder).stop()
    with pytest.raises(UsageError, match="trials.jsonl: holds trials of another model") as caught:
        trials(folder, model="other")
    assert caught.value.hint == "continue with what it was started with, or give another --out"


def test_a_native_run_that_fails_ends_the_search(folder: Path) -> None:
    running = trials(folder)
    with pytest.raises(EngineError, match="the native run failed: exit 1 in pass 1 of 3; Value"):
        running.native("native", include=["crashes"])
    running.stop()
