"""Trials are watched, ended, written down and not run twice; real processes, without a model."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flagdeploy.errors import EngineError, UsageError
from flagdeploy.operators import trials as module
from flagdeploy.operators.outcome import Bounds, Outcome, stopped
from flagdeploy.operators.trials import Trials
from flagdeploy.operators.watch import Limits, beat

PROGRAM = """
import json, pathlib, sys, time
request = json.loads(pathlib.Path(sys.argv[1]).read_text())
out = pathlib.Path(sys.argv[2])
names = request.get("include") or ["none"]

def beat(stage):
    part = out.with_suffix(".part")
    part.write_text(json.dumps({"stage": stage, "compiled": 0, "cpu_s": 0.0}))
    part.replace(out.with_suffix(".beat"))

def once(name):
    path = pathlib.Path(name)
    return not path.exists() and not path.touch()

with open("started", "a") as file:
    file.write(",".join(names) + "\\n")
beat("load")
if "no_room" in names:
    raise MemoryError("of the host")
beat("pass 1 of 3")
for name in names:
    kind = {"hangs": "hung", "compiles": "compiling", "compiles_once": "compiling"}.get(name)
    if kind and (name != "compiles_once" or once("kernels")):
        beat(kind)
        time.sleep(600)
if "crashes" in names:
    raise ValueError("no such layout")
if "crowded" in names and once("alone"):
    raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
seconds = 9.0 if "slow" in names else 1.0
out.write_text(json.dumps({"positions": 4, "not_finite": 0, "identical": True, "kl": 0.0,
                           "top1": 1.0, "seconds": seconds}))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def time_is_up_when_a_trial_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after seconds, which mean little on a busy machine."""

    def watch(process: subprocess.Popen[bytes], beats: Path, limits: Limits) -> Outcome | None:
        while process.poll() is None:
            kind = beat(beats).get("stage", "")
            if kind in ("hung", "compiling"):
                return stopped(kind, "time is up", "pass 1 of 3")
            time.sleep(0.02)
        return None

    monkeypatch.setattr(module, "watch", watch)


def trials(
    folder: Path,
    model: str = "m",
    limits: Limits = Limits(300, 900),  # noqa: B008
    jobs: int = 4,
) -> Trials:
    made = Trials(
        folder, {"model": model}, limits=limits, jobs=jobs, program=(sys.executable, "-c", PROGRAM)
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
    tries = {kind: started(folder).count(kind) for kind in kinds}
    # what compiles gets three chances; neighbours may have slowed the others, so they come again
    again = {"compiles": 3, "compiles_once": 2, "slow": 2, "hangs": 2}
    assert tries == dict.fromkeys(kinds, 1) | again


def test_one_at_a_time_has_no_neighbours_and_is_not_tried_again(folder: Path) -> None:
    running = trials(folder, jobs=1)
    found = running.outcomes([frozenset(["hangs"]), frozenset(["slow"])])
    running.stop()
    assert [outcome.kind for outcome in found] == ["hung", "slow"]
    assert started(folder) == ["hangs", "slow"]


def test_what_had_neighbours_is_tried_again_by_a_search_without(folder: Path) -> None:
    """As it may have been cut off before that."""
    first = trials(folder)
    first.outcomes([frozenset(["crowded"])])
    first.outcomes([frozenset(["fine"])])
    first.stop()
    running = trials(folder, jobs=1)
    found = running.outcomes([frozenset(["crowded"]), frozenset(["fine"])])
    running.stop()
    assert [outcome.kind for outcome in found] == ["passed", "passed"]
    assert started(folder) == ["crowded", "fine", "crowded"]


def test_memory_that_neighbours_took_convicts_nobody(folder: Path) -> None:
    running = trials(folder)
    found = running.outcomes([frozenset(["crowded"]), frozenset(["fine"])])
    running.stop()
    assert [outcome.kind for outcome in found] == ["passed", "passed"]
    assert started(folder).count("crowded") == 2


def test_a_trial_that_never_came_to_its_operators_ends_the_search(folder: Path) -> None:
    running = trials(folder)
    what = "ended before an operator was on: exit 1 in load; MemoryError: of the host"
    with pytest.raises(EngineError, match=what) as caught:
        running.outcomes([frozenset(["no_room"]), frozenset(["fine"])])
    running.stop()
    assert "fewer --jobs" in str(caught.value.hint)
    assert started(folder).count("no_room") == 2
    lines = (folder / "trials.jsonl").read_text().splitlines()
    assert [json.loads(line).get("name") for line in lines[1:]] == ["fine"]


def test_more_time_is_another_chance_for_what_ran_out_of_it(folder: Path) -> None:
    for limits, tries in ((Limits(9, 9), 1), (Limits(9, 99), 1), (Limits(99, 9), 2)):
        running = trials(folder, limits=limits)
        assert running.outcomes([frozenset(["hangs"])])[0].kind == "hung"
        running.stop()
        assert len(started(folder)) == tries


def test_one_search_at_a_time_in_a_folder(folder: Path) -> None:
    first = trials(folder)
    with pytest.raises(UsageError, match="another search runs there"):
        trials(folder)
    first.stop()
    trials(folder).stop()


def test_a_damaged_line_is_named(folder: Path) -> None:
    first = trials(folder)
    first.outcomes([frozenset(["fine"])])
    first.stop()
    state = folder / "trials.jsonl"
    whole = state.read_text()
    state.write_text(whole + "[1]\n")
    with pytest.raises(UsageError, match="trials.jsonl:3: is damaged") as caught:
        trials(folder)
    assert caught.value.hint == (
        "delete that line, and its trial is made again; or give another --out"
    )
    state.write_text("\0\0\n")
    with pytest.raises(UsageError, match="trials.jsonl:1: is damaged"):
        trials(folder)
    state.write_text(whole)
    trials(folder).stop()


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
    first = trials(folder, model="mistaken")
    first.native("native")  # which is nothing lost
    first.stop()
    second = trials(folder)
    second.native("native")
    second.outcomes([frozenset(["fine"])])
    second.stop()
    assert started(folder) == ["none", "none", "fine"]
    with pytest.raises(UsageError, match="trials.jsonl: holds trials of another model") as caught:
        trials(folder, model="other")
    assert caught.value.hint == "continue with what it was started with, or give another --out"


def test_a_native_run_that_fails_ends_the_search(folder: Path) -> None:
    running = trials(folder)
    with pytest.raises(EngineError, match="the native run failed: exit 1 in pass 1 of 3; Value"):
        running.native("native", include=["crashes"])
    running.stop()
