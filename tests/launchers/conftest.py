"""Launchers for the hosts of the proving ground."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from proving_ground import hosts as ground

from flagdeploy.config.launch import Host
from flagdeploy.launchers.connection import Connection, Timeouts
from flagdeploy.launchers.ssh import SshLauncher

Connect = Callable[..., Connection]


@pytest.fixture
def ssh_home(fleet: ground.Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without keys and known hosts; the fleet's key is given by the environment."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FLAGDEPLOY_SSH_KEY", str(fleet.key_path))
    monkeypatch.delenv("FLAGDEPLOY_KNOWN_HOSTS", raising=False)
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return tmp_path


@pytest.fixture
def connect(fleet: ground.Fleet, ssh_home: Path) -> Iterator[Connect]:
    """Makes connections with short retries; closes them at the end."""
    opened = []

    def make(node: ground.Host, known_hosts: Path | None = None, **changes: object) -> Connection:
        host = Host(node.address, user=node.user, port=node.port)
        settings = {"timeouts": Timeouts(connect=2), "retry_pauses": (0.1,)} | changes
        opened.append(Connection(host, known_hosts or fleet.known_hosts_path, **settings))
        return opened[-1]

    yield make
    for connection in opened:
        connection.close()


@pytest.fixture
def launcher(fleet: ground.Fleet, ssh_home: Path) -> Iterator[SshLauncher]:
    """A launcher for the first host; what it started is gone at the end."""
    node = fleet[0]
    launcher = SshLauncher(
        Host(node.address, user=node.user, port=node.port), fleet.known_hosts_path
    )
    yield launcher
    launcher.close()
    node.remove_containers()


@pytest.fixture
def restricted_key(
    fleet: ground.Fleet, ssh_home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """A key that may run commands and nothing else: no tunnels of any kind (sshd(8), restrict)."""
    key = ssh_home / "restricted"
    ground.generate_key(key)
    authorized = fleet.key_path.with_suffix(".pub")
    before = authorized.read_text()
    authorized.write_text(f"{before.rstrip()}\nrestrict {key.with_suffix('.pub').read_text()}")
    monkeypatch.setenv("FLAGDEPLOY_SSH_KEY", str(key))
    yield
    authorized.write_text(before)
