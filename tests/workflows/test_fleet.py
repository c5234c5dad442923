"""A deployment of two ranks in containers on two hosts, from start to stop, and its accidents."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from proving_ground.hosts import Fleet
from proving_ground.image import Image

from flagdeploy.config.launch import (
    LABEL_DEPLOYMENT,
    LABEL_ENDPOINT,
    LABEL_MODEL,
    LABEL_RANK,
    LABEL_RANKS,
    LABEL_SPEC,
    ContainerSpec,
    Host,
    Mount,
)
from flagdeploy.errors import CheckpointError, EngineError, HostError, HostsFailed
from flagdeploy.launchers import open_launchers
from flagdeploy.launchers.base import Launcher
from flagdeploy.plans.steps import CheckCheckpoint, Plan, Start, WaitReady
from flagdeploy.records.events import Event
from flagdeploy.records.run import Run
from flagdeploy.workflows.execute import execute
from flagdeploy.workflows.logs import logs_of
from flagdeploy.workflows.probe import probe
from flagdeploy.workflows.status import status_of
from flagdeploy.workflows.stop import stop_ranks

from .conftest import CANARY, ENGINE, KEY

pytestmark = pytest.mark.fleet

PORT = 8000
Launchers = Mapping[str, Launcher]
MakePlan = Callable[..., Plan]


@pytest.fixture
def hosts(fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Host]:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FLAGDEPLOY_SSH_KEY", str(fleet.key_path))
    return [Host(node.address, user=node.user, port=node.port) for node in fleet]


@pytest.fixture
def launchers(fleet: Fleet, hosts: list[Host], tmp_path: Path) -> Iterator[Launchers]:
    with open_launchers("ssh", hosts, known_hosts=fleet.known_hosts_path, state=tmp_path) as opened:
        yield opened
    for node in fleet:
        node.remove_containers()


@pytest.fixture
def plan_of(fleet: Fleet, python_environment: Image) -> MakePlan:
    """One rank on each host; the endpoint listens on the first host's loopback only."""

    def make(*behaviours: tuple[str, ...], stall_timeout: float = 60) -> Plan:
        mounts = [mount.split(":") for mount in python_environment.mounts]
        steps = []
        for rank, (node, words) in enumerate(zip(fleet, behaviours, strict=True)):
            labels = {
                LABEL_DEPLOYMENT: "tiny",
                LABEL_RANK: str(rank),
                LABEL_RANKS: "2",
                LABEL_ENDPOINT: f"http://127.0.0.1:{PORT}",
                LABEL_MODEL: "tiny",
                LABEL_SPEC: "s",
            }
            spec = ContainerSpec(
                name=f"flagdeploy-tiny-{rank}",
                image=python_environment.tag,
                argv=("python3", "-I", str(ENGINE), str(PORT), *words),
                env={"HF_TOKEN": CANARY},
                labels=labels,
                mounts=(
                    *(Mount(source, target, True) for source, target, _ in mounts),
                    Mount(str(ENGINE), str(ENGINE), True),
                ),
                init=False,
                stop_timeout=1,
            )
            steps.append(Start(node.address, f"start-{rank}", f"start rank {rank}", rank, spec))
        first = fleet[0].address
        ready = WaitReady(
            first, "wait", "wait", "127.0.0.1", PORT, "tiny", KEY, stall_timeout, 0.2
        )  # fmt: skip
        return Plan("tiny", (*steps, ready))

    return make


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "runs", "tiny", [KEY, CANARY])


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.1)


def containers(fleet: Fleet) -> list[str]:
    return [line for node in fleet for line in node.docker("ps", "-aq").split()]


def test_the_life_of_a_deployment(
    fleet: Fleet, launchers: Launchers, plan_of: MakePlan, run: Run, tmp_path: Path
) -> None:
    execute(plan_of(("loading",), ("follow",)), launchers, run)

    facts = probe(launchers, "tiny", ports=[PORT])
    assert [(rank.rank, rank.host, rank.state) for rank in facts.running] == [
        (0, fleet[0].address, "running"),
        (1, fleet[1].address, "running"),
    ]
    assert facts.of(fleet[0].address).ports_in_use == {PORT}
    assert facts.of(fleet[1].address).ports_in_use == frozenset()
    assert status_of(launchers, "tiny", {"tiny": KEY}).healthy
    lines = [
        f"[rank 0 {fleet[0].address}] Application startup complete",
        f"[rank 1 {fleet[1].address}] Loading safetensors checkpoint shards (follow)",
    ]
    # Rank 1 is not waited for: it may still be about to print.
    eventually(lambda: set(lines) <= set(map(str, logs_of(launchers, "tiny", tmp_path))))

    fleet[1].docker("kill", "flagdeploy-tiny-1")
    eventually(lambda: launchers[fleet[1].address].running()[0].state == "exited")
    (found,) = status_of(launchers, "tiny").deployments
    assert (found.state, found.detail) == ("degraded", "1 of 2 ranks run: rank 1 is dead")
    assert found.ranks[1].exit_code == 137

    assert len(stop_ranks(launchers, "tiny").ranks) == 2
    assert containers(fleet) == []
    assert stop_ranks(launchers, "tiny").ranks == ()
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or CANARY.reveal() not in path.read_text(errors="replace")


def test_a_rank_that_dies_takes_the_group_with_it(
    fleet: Fleet, launchers: Launchers, plan_of: MakePlan, run: Run
) -> None:
    with pytest.raises(EngineError) as raised:
        execute(plan_of(("healthy",), ("die", "CUDA out of memory", "1")), launchers, run)
    assert str(raised.value).startswith(
        f"rank 1 on {fleet[1].address} failed (exit code 1): out of device memory\n"
    )
    assert containers(fleet) == []
    assert set(run.logs()) == {0, 1}


def test_a_name_that_is_taken_on_one_host_leaves_nothing_on_the_other(
    fleet: Fleet, launchers: Launchers, plan_of: MakePlan, run: Run
) -> None:
    plan = plan_of(("serve",), ("follow",))
    foreign = dataclasses.replace(plan.steps[1].spec, labels={})
    launchers[fleet[1].address].start(foreign)
    with pytest.raises(HostError, match="belongs to a container that flagdeploy did not start"):
        execute(plan, launchers, run)
    assert fleet[0].docker("ps", "-aq") == ""
    assert len(fleet[1].docker("ps", "-q").split()) == 1


def test_a_host_that_goes_down_is_named_and_the_rest_is_stopped(
    fleet: Fleet,
    launchers: Launchers,
    plan_of: MakePlan,
    run: Run,
) -> None:
    execute(plan_of(("serve",), ("follow",)), launchers, run)
    fleet[1].down()
    try:
        for launcher in launchers.values():
            launcher.close()
        found = status_of(launchers, "tiny", {"tiny": KEY})
        assert list(found.unreachable) == [fleet[1].address]
        assert found.deployments[0].state == "degraded"
        with pytest.raises(HostError) as raised:
            stop_ranks(launchers, "tiny")
        assert raised.value.host == fleet[1].address
        assert fleet[0].docker("ps", "-aq") == ""
    finally:
        fleet[1].up()
    assert len(stop_ranks(launchers, "tiny").ranks) == 1
    assert containers(fleet) == []


def test_a_connection_that_is_lost_while_waiting_is_made_anew(
    fleet: Fleet, launchers: Launchers, plan_of: MakePlan, run: Run
) -> None:
    def cut(event: Event) -> None:
        if event.message == "wait":
            launchers[fleet[1].address].connection.transport.close()  # type: ignore[attr-defined]

    execute(plan_of(("loading",), ("follow",)), launchers, run, cut)
    assert len(containers(fleet)) == 2


def test_an_engine_that_dies_while_waiting_ends_the_wait(
    fleet: Fleet, launchers: Launchers, plan_of: MakePlan, run: Run
) -> None:
    def kill(event: Event) -> None:
        if event.stage == "wait" and event.message == "wait":
            fleet[1].kill_dockerd()

    try:
        with pytest.raises(HostError) as raised:
            execute(plan_of(("healthy",), ("follow",)), launchers, run, kill)
    finally:
        fleet[1].restart_dockerd()
    first, last = str(raised.value).splitlines()
    assert first.startswith(f"{fleet[1].address}: ")
    assert last.startswith(f"could not be stopped on {fleet[1].address}: ")
    assert fleet[0].docker("ps", "-aq") == ""


def test_all_hosts_that_fail_are_named(fleet: Fleet, hosts: list[Host], tmp_path: Path) -> None:
    with (
        open_launchers("ssh", hosts, known_hosts=tmp_path / "none", state=tmp_path) as opened,
        pytest.raises(HostsFailed) as raised,
    ):
        probe(opened, "tiny")
    assert list(raised.value.failures) == [node.address for node in fleet]
    assert str(raised.value).count("is not in any known_hosts file") == 2
    assert raised.value.hint == (
        "flagdeploy hosts trust --hosts FILE shows the keys and records them"
    )


def test_the_checkpoint_is_verified_where_it_will_be_read(
    fleet: Fleet, launchers: Launchers, run: Run, tmp_path: Path
) -> None:
    """Over SFTP: a shard that is cut short on the host is told as `verify` tells it here."""
    import numpy
    from safetensors.numpy import save_file

    model = tmp_path / "model"
    model.mkdir()
    save_file({"w": numpy.zeros((256, 256))}, model / "model.safetensors", {"format": "pt"})
    (model / "config.json").write_text("{}")
    (model / "tokenizer.json").write_text("{}")
    step = CheckCheckpoint(fleet[1].address, "check", "verify", str(model))
    assert execute(Plan("tiny", (step,)), launchers, run).changed
    with (model / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(CheckpointError) as raised:
        execute(Plan("tiny", (step,)), launchers, run)
    assert str(raised.value).startswith(f"{fleet[1].address}: {model}")
    assert "torn" in str(raised.value)
