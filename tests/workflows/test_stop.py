from collections.abc import Mapping
from pathlib import Path

import pytest

from flagdeploy.errors import ConfigError, HostError
from flagdeploy.launchers.base import Launcher
from flagdeploy.records.events import Event
from flagdeploy.workflows.stop import stop, stop_ranks

from .conftest import HERE, start
from .test_status import Unreachable, wait_until_dead

Launchers = Mapping[str, Launcher]


def test_running_and_dead_ranks_go(launchers: Launchers, port: int) -> None:
    launchers[HERE].start(start(0, 2, ("follow",), port).spec)
    launchers[HERE].start(start(1, 2, ("die", "x", "1"), port).spec)
    wait_until_dead(launchers[HERE], rank=1)
    events: list[Event] = []
    stopped = stop_ranks(launchers, "tiny", events.append)
    assert stopped.text() == (
        "stopped rank 0 on 127.0.0.1 (flagdeploy-tiny-0)\n"
        "stopped rank 1 on 127.0.0.1 (flagdeploy-tiny-1)"
    )
    assert [event.message for event in events] == [
        "stopping rank 0 of tiny",
        "stopping rank 1 of tiny",
    ]
    assert launchers[HERE].running() == ()


def test_that_nothing_runs_is_no_error(launchers: Launchers) -> None:
    assert stop_ranks(launchers, "tiny").text() == "nothing is running"


def test_other_deployments_are_left_alone(launchers: Launchers, port: int) -> None:
    launchers[HERE].start(start(0, 1, ("follow",), port).spec)
    assert stop_ranks(launchers, "other").ranks == ()
    assert len(launchers[HERE].running()) == 1


def test_a_host_that_is_down_is_named_and_the_others_are_stopped(
    launchers: Launchers, port: int, tmp_path: Path
) -> None:
    launchers[HERE].start(start(0, 1, ("follow",), port).spec)
    lost = Unreachable(launchers[HERE].host, tmp_path)
    with pytest.raises(HostError, match=r"^10\.9\.9\.9: 10\.9\.9\.9:22 refuses connections$"):
        stop_ranks({"10.9.9.9": lost, **launchers}, "tiny")
    assert launchers[HERE].running() == ()


def test_an_unknown_deployment_touches_nothing(tmp_path: Path) -> None:
    for folder in ("examples", "env"):
        (tmp_path / folder).mkdir()
    victim = tmp_path / "victim.txt"
    victim.write_text("precious")
    for name in ("nosuch", "../../victim.txt"):
        with pytest.raises(ConfigError, match="unknown deployment"):
            stop(name, workspace=str(tmp_path))
    assert victim.read_text() == "precious"
    assert not (tmp_path / "runs").exists()
