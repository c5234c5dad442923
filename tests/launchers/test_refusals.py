"""Hosts that do not let us in, without any host: ports of this machine that behave badly."""

import errno
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import paramiko
import pytest

from flagdeploy.config.launch import Host
from flagdeploy.errors import HostError
from flagdeploy.launchers import known_hosts
from flagdeploy.launchers.connection import Connection, Timeouts
from flagdeploy.launchers.refusals import explain, is_transient
from flagdeploy.launchers.route import Route, route

WAY = Route("192.0.2.1", 22, "deploy", ("/keys/id",), False, None, ())
BAD_KEYS = {
    "/keys/id: not a valid OPENSSH private key file": paramiko.SSHException(
        "not a valid OPENSSH private key file"
    ),
    "/keys/id: no private key: Is a directory": IsADirectoryError(
        errno.EISDIR, "Is a directory", "/keys/id"
    ),
    "/keys/id: no private key: Permission denied": PermissionError(
        errno.EACCES, "Permission denied", "/keys/id"
    ),
}


@pytest.mark.parametrize(("message", "error"), BAD_KEYS.items())
def test_a_key_that_is_none_is_named_at_once(message: str, error: Exception) -> None:
    assert not is_transient(error)
    assert str(explain("a", WAY, error, 10)) == f"a: {message}"


@contextmanager
def port(behave: Callable[[socket.socket], None]) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    behave(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def test_a_port_that_says_nothing_is_given_up() -> None:
    held: list[socket.socket] = []
    with port(held.append) as number:
        host = Host("127.0.0.1", port=number, user="root")
        with pytest.raises(HostError, match="Error reading SSH protocol banner"):
            Connection(host, None, Timeouts(banner=0.2), retry_pauses=(3600,)).run(["true"])
        with pytest.raises(HostError) as error:
            known_hosts.fetch(host, "127.0.0.1", number, timeout=0.2)
    assert str(error.value).endswith(f"127.0.0.1:{number} did not answer within 0.2 s")
    for connection in held:
        connection.close()


def test_fetching_keys_from_what_is_no_sshd_prints_nothing() -> None:
    code = (
        "import sys\n"
        "from flagdeploy.config.launch import Host\n"
        "from flagdeploy.launchers import known_hosts\n"
        "try: known_hosts.fetch(Host('a'), '127.0.0.1', int(sys.argv[1]))\n"
        "except Exception as error: print(error)\n"
    )
    with port(lambda connection: connection.close()) as number:
        done = subprocess.run(
            [sys.executable, "-c", code, str(number)], capture_output=True, text=True
        )
    assert done.stdout == f"a: 127.0.0.1:{number} shows no SSH host key\n"
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Host *\n Port abc\n", "~/.ssh/config: `abc` is no port"),
        ("garbage\n", "HOME/.ssh/config: Unparsable line garbage"),
    ],
)
def test_an_ssh_config_that_cannot_be_understood(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/config").write_text(text)
    with pytest.raises(HostError) as error:
        route(Host("a"))
    assert str(error.value).replace(str(tmp_path), "HOME") == f"a: {message}"
