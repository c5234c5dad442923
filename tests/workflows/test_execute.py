"""Plans carried out with real processes: success, every kind of failure, and what is left."""

import json
import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from flagdeploy.errors import CheckpointError, EngineError, HostError
from flagdeploy.launchers.base import Launcher
from flagdeploy.plans.steps import CheckCheckpoint, Plan, Skip, Stop
from flagdeploy.records.events import Event
from flagdeploy.records.run import Run
from flagdeploy.workflows.execute import execute
from flagdeploy.workflows.group import first_failure
from flagdeploy.workflows.ready import phase_of

from .conftest import CANARY, HERE, KEY, MakePlan

Launchers = Mapping[str, Launcher]


def failure(plan: Plan, launchers: Launchers, run: Run) -> EngineError:
    with pytest.raises(EngineError) as raised:
        execute(plan, launchers, run)
    assert launchers[HERE].running() == ()
    return raised.value


@pytest.mark.parametrize("behaviour", ["serve", "loading"])
def test_a_deployment_comes_up(
    behaviour: str, make_plan: MakePlan, launchers: Launchers, run: Run
) -> None:
    events: list[Event] = []
    outcome = execute(make_plan((behaviour,), ("follow",)), launchers, run, events.append)
    assert [(r.step, r.state) for r in outcome.results] == [
        ("Start", "done"),
        ("Start", "done"),
        ("WaitReady", "done"),
    ]
    assert outcome.changed
    ranks = launchers[HERE].running("tiny")
    assert [(rank.rank, rank.state) for rank in ranks] == [(0, "running"), (1, "running")]
    assert {rank.labels["flagdeploy.run"] for rank in ranks} == {run.id}
    assert [event.message for event in events][:2] == ["start rank 0 of 2", "start rank 1 of 2"]


def test_the_record_tells_the_steps_and_no_secret(
    make_plan: MakePlan, launchers: Launchers, run: Run, tmp_path: Path
) -> None:
    execute(make_plan(("serve",)), launchers, run)
    steps = json.loads((run.folder / "steps.json").read_text())
    assert [(step["step"], step["state"]) for step in steps] == [
        ("Start", "done"),
        ("WaitReady", "done"),
    ]
    lines = (run.folder / "events.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["message"] == "start rank 0 of 1"
    for path in tmp_path.rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert KEY.reveal() not in text
            assert CANARY.reveal() not in text


def test_a_rank_that_dies_is_found_explained_and_the_group_stopped(
    make_plan: MakePlan, launchers: Launchers, run: Run
) -> None:
    oom = f"torch.OutOfMemoryError: CUDA out of memory. token={CANARY.reveal()}"
    error = failure(make_plan(("healthy",), ("die", oom, "3")), launchers, run)
    masked = "torch.OutOfMemoryError: CUDA out of memory. token=***"
    assert str(error) == (
        "rank 1 on 127.0.0.1 failed (exit code 3): out of device memory\n"
        f"  {masked}\n"
        "last lines of rank 1:\n"
        "  | Loading safetensors checkpoint shards (die)\n"
        f"  | {masked}\n"
        "every rank was stopped again\n"
        f"the logs of all ranks are in {run.folder / 'logs'}"
    )
    assert str(error.hint).startswith("lower limits.context_length")
    assert run.logs()[1].read_text().splitlines()[1] == masked
    assert "healthy" in run.logs()[0].read_text()
    steps = json.loads((run.folder / "steps.json").read_text())
    assert steps[-1]["state"] == "failed"


def test_the_first_rank_that_failed_is_named(
    make_plan: MakePlan, launchers: Launchers, run: Run
) -> None:
    plan = make_plan(
        ("die", "ValueError: the cause", "1"), ("die", "Connection reset by peer", "1")
    )
    assert str(failure(plan, launchers, run)).startswith("rank 0 on 127.0.0.1 failed")


def test_health_alone_is_not_ready_and_no_progress_is_a_stall(
    make_plan: MakePlan, launchers: Launchers, run: Run
) -> None:
    error = failure(make_plan(("healthy",), stall_timeout=3), launchers, run)
    assert str(error) == (
        'tiny: no sign of progress for 3 s (log, memory, disk): HTTP 503: {"error": "loading"}'
    )
    assert error.hint == (
        "flagdeploy logs shows what it waits for; readiness.stall_timeout allows more"
    )


def test_a_warning_again_and_again_is_no_progress(
    make_plan: MakePlan, launchers: Launchers, run: Run
) -> None:
    error = failure(make_plan(("hang",), stall_timeout=1), launchers, run)
    assert "no sign of progress for 1 s" in str(error)


def test_an_endpoint_that_refuses_is_not_waited_for(
    make_plan: MakePlan, launchers: Launchers, run: Run, port: int
) -> None:
    error = failure(make_plan(("refuse",)), launchers, run)
    assert str(error) == (
        f"127.0.0.1: the endpoint at 127.0.0.1:{port} refuses to generate: HTTP 404: "
        '{"error": "no model tiny"}'
    )


def test_a_start_that_fails_stops_what_was_started(
    make_plan: MakePlan, launchers: Launchers, run: Run
) -> None:
    """Rank 1's name is taken by a deployment with other settings, which goes on running."""
    older = make_plan(("follow",), ("follow",)).steps[1]
    launchers[HERE].start(older.spec)  # type: ignore[attr-defined]
    with pytest.raises(HostError) as raised:
        execute(make_plan(("serve",), ("serve",)), launchers, run)
    assert str(raised.value) == "127.0.0.1: flagdeploy-tiny-1 runs already with other settings"
    assert [rank.rank for rank in launchers[HERE].running()] == [1]


def press_ctrl_c(after: float) -> None:
    threading.Timer(after, os.kill, [os.getpid(), signal.SIGINT]).start()


def test_ctrl_c_stops_what_was_started(make_plan: MakePlan, launchers: Launchers, run: Run) -> None:
    events: list[Event] = []

    def listen(event: Event) -> None:
        events.append(event)
        if event.message == "wait for a token":
            press_ctrl_c(after=0.5)

    with pytest.raises(KeyboardInterrupt):
        execute(make_plan(("healthy",), ("follow",)), launchers, run, listen)
    assert launchers[HERE].running() == ()
    messages = [event.message for event in events]
    told = messages[messages.index("interrupted: stopping what this run started") + 1 :]
    assert told == ["stopping rank 0", "stopping rank 1"]


def test_a_second_ctrl_c_leaves_at_once_and_says_what_is_left(
    make_plan: MakePlan, launchers: Launchers, run: Run
) -> None:
    events: list[Event] = []

    def listen(event: Event) -> None:
        events.append(event)
        if event.message in ("wait for a token", "stopping rank 0"):
            press_ctrl_c(after=0.5)

    with pytest.raises(KeyboardInterrupt):
        execute(make_plan(("stubborn",)), launchers, run, listen)
    assert events[-1].message == "may still run (not waited for): flagdeploy stop tiny"
    assert events[-1].host == HERE
    assert [rank.state for rank in launchers[HERE].running()] == ["running"]


def test_a_plan_of_skips_changes_nothing(launchers: Launchers, run: Run) -> None:
    outcome = execute(Plan("tiny", (Skip(HERE, "start-0", "runs already"),)), launchers, run)
    assert not outcome.changed
    assert [result.state for result in outcome.results] == ["skipped"]


def test_a_rank_that_died_before_the_wait_is_explained_too(
    make_plan: MakePlan, launchers: Launchers, run: Run
) -> None:
    """A second `serve`: nothing to start, and one rank dies under it."""
    *starts, ready = make_plan(("healthy",), ("die", "Bus error", "135")).steps
    for step in starts:
        launchers[HERE].start(step.spec)  # type: ignore[attr-defined]
    with pytest.raises(EngineError) as raised:
        execute(Plan("tiny", (ready,)), launchers, run)
    assert str(raised.value).startswith(
        "rank 1 on 127.0.0.1 failed (exit code 135): shared memory too small\n  Bus error\n"
    )
    # It was not this run that started them.
    assert len(launchers[HERE].running()) == 2


def test_stop_and_start_of_one_plan(make_plan: MakePlan, launchers: Launchers, run: Run) -> None:
    execute(make_plan(("serve",)), launchers, run)
    (old,) = launchers[HERE].running()
    stop = Stop(HERE, "stop-0", "replace", old.id, old.name, 0, 5)
    plan = make_plan(("loading",))
    execute(Plan("tiny", (stop, *plan.steps)), launchers, run)
    (new,) = launchers[HERE].running()
    assert (old.labels["flagdeploy.spec_sha256"], new.labels["flagdeploy.spec_sha256"]) == (
        "serve",
        "loading",
    )


def test_a_checkpoint_that_is_not_there(launchers: Launchers, run: Run) -> None:
    plan = Plan("tiny", (CheckCheckpoint(HERE, "check", "verify", "/no/such/model"),))
    with pytest.raises(CheckpointError) as raised:
        execute(plan, launchers, run)
    assert str(raised.value) == "127.0.0.1: /no/such/model: No such file or directory"
    assert raised.value.hint == (
        "flagdeploy pull fetches a checkpoint, dequant converts it; "
        "it has to be at the same path on every host"
    )


@pytest.mark.parametrize(
    ("line", "phase"),
    [
        (b"Loading safetensors checkpoint shards:  33% | 1/3", "loading"),
        (b"Capturing CUDA graphs: 12%", "capturing graphs"),
        (b"INFO:     Application startup complete.", "up"),
        (b"something else", ""),
        (0, ""),
    ],
)
def test_phases(line: object, phase: str) -> None:
    assert phase_of(line) == phase  # type: ignore[arg-type]


def test_no_evidence_no_first_failure() -> None:
    assert first_failure([]) is None
