import dataclasses
import os
import re
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from flagdeploy.config.launch import LABEL_STAGE
from flagdeploy.errors import HostError
from flagdeploy.launchers.base import Launcher
from flagdeploy.launchers.local import LocalLauncher
from flagdeploy.records.run import Run
from flagdeploy.workflows.execute import execute
from flagdeploy.workflows.status import status_of

from .conftest import HERE, KEY, MakePlan, start

Launchers = Mapping[str, Launcher]


class Unreachable(LocalLauncher):
    def running(self, name: str | None = None) -> tuple[()]:
        raise HostError("10.9.9.9", "10.9.9.9:22 refuses connections")


def engine_pid(behaviour: str) -> int:
    """The engine below its supervising shell."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        words = path.read_bytes().split(b"\0")
        if behaviour.encode() in words and words[1] == b"-I":
            return int(path.parent.name)
    raise AssertionError(f"no engine does {behaviour}")


def wait_until_dead(launcher: Launcher, rank: int) -> None:
    deadline = time.monotonic() + 30
    while launcher.running("tiny")[rank].state != "exited":
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_nothing_runs(launchers: Launchers) -> None:
    found = status_of(launchers)
    assert found.text() == "nothing is running"
    assert found.healthy
    assert found.to_dict() == {"deployments": [], "unreachable": {}}


def test_ready_means_a_token(make_plan: MakePlan, launchers: Launchers, run: Run) -> None:
    execute(make_plan(("serve",), ("follow",)), launchers, run)
    found = status_of(launchers, "tiny", {"tiny": KEY})
    (deployment,) = found.deployments
    assert deployment.state == "ready"
    assert [(rank.rank, rank.state) for rank in deployment.ranks] == [
        (0, "running"),
        (1, "running"),
    ]
    assert found.healthy
    assert found.text().startswith("tiny: ready\n  endpoint http://127.0.0.1:")


def test_an_endpoint_that_wants_its_key_is_alive(
    make_plan: MakePlan, launchers: Launchers, run: Run
) -> None:
    execute(make_plan(("serve",)), launchers, run)
    (deployment,) = status_of(launchers).deployments
    assert deployment.state == "ready"
    assert "401" in deployment.detail


def test_health_without_a_token_is_not_ready(launchers: Launchers, port: int) -> None:
    launchers[HERE].start(start(0, 1, ("healthy",), port).spec)
    found = status_of(launchers)
    assert found.deployments[0].state == "starting"
    assert not found.healthy


def test_a_killed_rank_is_told(make_plan: MakePlan, launchers: Launchers, run: Run) -> None:
    execute(make_plan(("serve",), ("follow",)), launchers, run)
    os.kill(engine_pid("follow"), signal.SIGKILL)
    wait_until_dead(launchers[HERE], rank=1)
    found = status_of(launchers)
    (deployment,) = found.deployments
    assert (deployment.state, deployment.detail) == ("degraded", "1 of 2 ranks run: rank 1 is dead")
    dead = deployment.ranks[1]
    assert (dead.state, dead.exit_code) == ("exited", 137)
    assert dead.diagnosis is not None and dead.diagnosis.cause == "ended by SIGKILL"
    assert not found.healthy
    assert "rank 1  127.0.0.1  exited (exit code 137)" in found.text()
    assert "ended by SIGKILL" in found.text()


def test_all_dead_is_failed(launchers: Launchers, port: int) -> None:
    launchers[HERE].start(start(0, 1, ("die", "Bus error", "1"), port).spec)
    wait_until_dead(launchers[HERE], rank=0)
    found = status_of(launchers)
    assert found.deployments[0].state == "failed"
    assert "shared memory too small: Bus error" in found.text()


def test_a_missing_rank_is_told(launchers: Launchers, port: int) -> None:
    launchers[HERE].start(start(0, 2, ("follow",), port).spec)
    (deployment,) = status_of(launchers).deployments
    assert (deployment.state, deployment.detail) == ("degraded", "1 of 2 ranks run: 1 missing")


def test_a_host_that_does_not_answer_is_named(launchers: Launchers, tmp_path: Path) -> None:
    lost = Unreachable(launchers[HERE].host, tmp_path)
    found = status_of({**launchers, "10.9.9.9": lost})
    assert found.unreachable == {"10.9.9.9": "10.9.9.9: 10.9.9.9:22 refuses connections"}
    assert found.text() == "unreachable: 10.9.9.9: 10.9.9.9:22 refuses connections"
    assert not found.healthy


def test_a_converter_is_told_apart_from_ranks(launchers: Launchers, port: int) -> None:
    """`status` while a stage runs, and beside a deployment that serves meanwhile."""
    step = start(0, 1, ("follow",), port)
    labels = {**step.spec.labels, LABEL_STAGE: "checkpoint"}
    converter = dataclasses.replace(step.spec, name="flagdeploy-tiny-checkpoint-0", labels=labels)
    launchers[HERE].start(converter)
    (found,) = status_of(launchers, "tiny").deployments
    assert (found.state, found.detail) == ("converting", "the checkpoint stage runs")
    launchers[HERE].start(start(0, 1, ("serve",), port).spec)
    text = status_of(launchers, "tiny", {"tiny": KEY}).text()
    assert re.search(rf"  rank 0  {HERE}  running  since \d{{4}}-\d\d-\d\dT[\d:]{{8}}Z\n", text)
    assert f"  checkpoint  {HERE}  running" in text
