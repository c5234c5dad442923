"""`hosts check` and `hosts trust` on real hosts."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from proving_ground.hosts import Fleet, generate_key

from flagdeploy.config.launch import Host
from flagdeploy.errors import HostError
from flagdeploy.launchers import open_launchers
from flagdeploy.launchers.base import Launcher
from flagdeploy.workflows.hosts import check, trust

pytestmark = pytest.mark.fleet

Launchers = Mapping[str, Launcher]


@pytest.fixture
def inventory(fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Host]:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FLAGDEPLOY_SSH_KEY", str(fleet.key_path))
    return [Host(node.address, user=node.user, port=node.port) for node in fleet]


@pytest.fixture
def launchers(fleet: Fleet, inventory: list[Host], tmp_path: Path) -> Iterator[Launchers]:
    known = fleet.known_hosts_path
    with open_launchers("ssh", inventory, known_hosts=known, state=tmp_path) as opened:
        yield opened


def test_hosts_that_answer_alike_are_put_together(fleet: Fleet, launchers: Launchers) -> None:
    answers = check(launchers, devices=["/dev/nul[l]"])
    ((hosts, answer),) = answers.same
    assert hosts == (fleet[0].address, fleet[1].address)
    assert "engine Docker " in answer
    assert "devices /dev/null" in answer
    assert "ranks 0" in answer
    assert answers.failures == {}


def test_a_command_on_every_host(fleet: Fleet, launchers: Launchers) -> None:
    answers = check(launchers, ["sh", "-c", "echo $SSH_CONNECTION | cut -d' ' -f3; exit 4"])
    lines = [f"{node.address}\nexit code 4: " for node in fleet]
    assert [answer.startswith(line) for (_, answer), line in zip(answers.same, lines, strict=True)]
    assert len(answers.same) == 2
    assert answers.exit_codes == {node.address: 4 for node in fleet}
    assert not answers.ok
    assert check(launchers, ["true"]).ok


def test_a_host_that_is_down_is_named(fleet: Fleet, launchers: Launchers) -> None:
    lost = Host("127.0.0.1", user="root", port=9)
    with open_launchers("ssh", [lost], state=Path("/none")) as opened:
        answers = check({**launchers, **opened}, ["echo", "ok"])
    assert answers.same == (((fleet[0].address, fleet[1].address), "ok"),)
    assert str(answers.failures["127.0.0.1"]) == "127.0.0.1: 127.0.0.1:9 refuses connections"
    assert answers.text().splitlines()[-2:] == [
        "127.0.0.1: 127.0.0.1:9 refuses connections",
        "hint: is sshd running there, on this port?",
    ]


def test_trust_shows_records_and_knows(fleet: Fleet, inventory: list[Host], tmp_path: Path) -> None:
    path = tmp_path / "workspace" / "known_hosts"
    shown: list[str] = []

    def accept_the_first(line: str) -> bool:
        shown.append(line)
        return len(shown) == 1

    trusted = trust(inventory, path, accept_the_first)
    assert trusted.added == (shown[0],)
    assert trusted.declined == (shown[1],)
    name, kind, fingerprint = shown[1].split()
    assert (name, kind) == (f"[{fleet[1].address}]:2222", "ssh-ed25519")
    assert fingerprint.startswith("SHA256:")

    again = trust(inventory, path, lambda line: True)
    assert (again.known, again.added) == ((shown[0],), (shown[1],))
    with open_launchers("ssh", inventory, known_hosts=path, state=tmp_path) as opened:
        assert len(check(opened, ["true"]).same) == 1


def test_trust_never_overwrites(fleet: Fleet, inventory: list[Host], tmp_path: Path) -> None:
    generate_key(tmp_path / "other")
    kind, other, *_ = (tmp_path / "other.pub").read_text().split()
    path = tmp_path / "known_hosts"
    path.write_text(f"{fleet[0].address} {kind} {other}\n")
    with pytest.raises(HostError) as raised:
        trust(inventory[:1], path, lambda line: True)
    assert str(raised.value).startswith(
        f"{fleet[0].address}: its ssh-ed25519 key has CHANGED: {path} has SHA256:"
    )
    assert raised.value.hint == (
        f"only if you know why it changed: ssh-keygen -f {path} -R '{fleet[0].address}'"
    )
    assert path.read_text() == f"{fleet[0].address} {kind} {other}\n"
