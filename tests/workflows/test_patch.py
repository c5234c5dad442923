"""The patch step of `serve` on a host, by way of a launcher."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from patching.generated import Repository, git, on_disk, write_set
from proving_ground.hosts import Fleet

from flagdeploy.config.launch import Host
from flagdeploy.config.patch_set import PatchSet, read
from flagdeploy.errors import HostError
from flagdeploy.launchers import open_launchers
from flagdeploy.launchers.base import Launcher
from flagdeploy.plans.patch import plan_apply
from flagdeploy.plans.steps import Plan, Skip
from flagdeploy.records.run import Run
from flagdeploy.workflows.execute import execute
from flagdeploy.workflows.probe import probe

from .conftest import HERE

Launchers = Mapping[str, Launcher]
SEED = 7


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "demo", range(SEED, SEED + 1))


@pytest.fixture
def chosen(repository: Repository, tmp_path: Path) -> PatchSet:
    base = repository.base(SEED)
    return read(write_set(tmp_path / f"patches/acme/demo@{base}", repository.patches(SEED), base))


def carry_out(
    launchers: Launchers, run: Run, chosen: PatchSet, repository: Repository, target: Path
) -> list[bool]:
    """Probe, plan and execute on every host; where it was a Skip."""
    facts = probe(launchers, "tiny", patched=str(target))
    steps = [
        plan_apply(chosen, str(repository.folder), str(target), facts.of(host).patched, host)
        for host in launchers
    ]
    execute(Plan("tiny", tuple(steps)), launchers, run)
    return [isinstance(step, Skip) for step in steps]


def test_applied_once_and_then_in_place(
    launchers: Launchers, run: Run, chosen: PatchSet, repository: Repository, tmp_path: Path
) -> None:
    target = tmp_path / "into" / "demo"
    before = repository.snapshot()
    assert carry_out(launchers, run, chosen, repository, target) == [False]
    assert on_disk(target) == repository.series[SEED].patched
    assert carry_out(launchers, run, chosen, repository, target) == [True]
    assert repository.snapshot() == before


def test_a_host_without_the_commit(
    launchers: Launchers, run: Run, chosen: PatchSet, repository: Repository, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    git(empty, "init", "-q")
    step = plan_apply(
        chosen, str(empty), str(tmp_path / "into"), probe(launchers, "tiny").of(HERE).patched, HERE
    )
    with pytest.raises(HostError) as raised:
        execute(Plan("tiny", (step,)), launchers, run)
    assert str(raised.value) == f"{HERE}: {chosen}: {empty} has no commit {chosen.base}"
    assert raised.value.hint == (f"git -C {empty} fetch https://example.com/demo {chosen.base}")
    assert not (tmp_path / "into").exists()


@pytest.fixture
def over_ssh(fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launchers]:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FLAGDEPLOY_SSH_KEY", str(fleet.key_path))
    node = fleet[0]
    hosts = [Host(node.address, user=node.user, port=node.port)]
    known = fleet.known_hosts_path
    with open_launchers("ssh", hosts, known_hosts=known, state=tmp_path) as opened:
        yield opened


@pytest.mark.fleet
def test_over_ssh_every_byte_arrives(
    over_ssh: Launchers, run: Run, chosen: PatchSet, repository: Repository, tmp_path: Path
) -> None:
    target = tmp_path / "with space ü" / "demo"
    assert carry_out(over_ssh, run, chosen, repository, target) == [False]
    assert on_disk(target) == repository.series[SEED].patched
    assert carry_out(over_ssh, run, chosen, repository, target) == [True]
