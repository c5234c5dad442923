"""SSH to real hosts: what works, and what every failure says."""

import hashlib
import socket
import subprocess
import threading
import time
from pathlib import Path

import paramiko
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from proving_ground.hosts import Fleet, generate_key

from flagdeploy.config.launch import Host
from flagdeploy.errors import HostError
from flagdeploy.launchers import known_hosts
from flagdeploy.launchers.attended import attend
from flagdeploy.launchers.connection import Connection
from flagdeploy.launchers.route import route

from .conftest import Connect

pytestmark = pytest.mark.fleet


def failure(connection: Connection) -> HostError:
    with pytest.raises(HostError) as raised:
        connection.run(["true"])
    return raised.value


def fingerprint(public_key: Path) -> str:
    """As OpenSSH itself prints it."""
    line = subprocess.run(
        ["ssh-keygen", "-lf", public_key], capture_output=True, text=True, check=True
    )
    return line.stdout.split()[1]


def test_a_command_gets_its_arguments_as_they_are(fleet: Fleet, connect: Connect) -> None:
    words = ["a b", "$HOME", "'", '"', "*", "", ";reboot", "-n", "ü", "\\", "a\nb"]
    result = connect(fleet[0]).run(["printf", "%s|", *words])
    assert result.stdout.decode() == "".join(f"{word}|" for word in words)
    assert result.exit_code == 0


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
SPECIAL = st.sampled_from([*"$'\"\\`!*?~#;&|<>(){}[]= \n\t", "$(id)", "${HOME}"])
SHELL = st.lists(SPECIAL).map("".join)


def test_any_words_arrive_at_a_real_shell(fleet: Fleet, connect: Connect) -> None:
    connection = connect(fleet[0])

    @settings(max_examples=40)
    @given(st.lists(TEXT | SHELL, max_size=4))
    def arrive(words: list[str]) -> None:
        expected = "".join(f"{word}\0" for word in words).encode() or b"\0"
        assert connection.run(["printf", "%s\\0", *words]).stdout == expected
        done = attend(connection, ["printf", "%s\\0", *words], print, threading.Event())
        assert done.stdout == expected

    arrive()


def test_exit_code_and_both_outputs(fleet: Fleet, connect: Connect) -> None:
    result = connect(fleet[1]).run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (result.exit_code, result.stdout, result.stderr) == (3, b"out\n", b"err\n")


def test_a_flood_on_stderr_blocks_nothing(fleet: Fleet, connect: Connect) -> None:
    flood = 5 << 20
    result = connect(fleet[0]).run(["sh", "-c", f"head -c {flood} /dev/zero >&2; echo done"])
    assert len(result.stderr) == flood
    assert result.stdout == b"done\n"


def test_a_flood_on_stdin_arrives(fleet: Fleet, connect: Connect) -> None:
    flood = bytes(range(256)) * (5 << 12)
    result = connect(fleet[0]).run(["sha256sum"], stdin=flood)
    assert result.text == f"{hashlib.sha256(flood).hexdigest()}  -"


def test_a_command_without_end_is_ended(fleet: Fleet, connect: Connect) -> None:
    with pytest.raises(HostError) as raised:
        connect(fleet[0]).run(["sleep", "300"], timeout=0.3)
    assert str(raised.value) == f"{fleet[0].address}: `sleep 300` did not end within 0.3 s"


def test_a_command_reads_no_input(fleet: Fleet, connect: Connect) -> None:
    assert connect(fleet[0]).run(["cat"]).stdout == b""


def test_one_connection_serves_many_threads(fleet: Fleet, connect: Connect) -> None:
    connection = connect(fleet[0])
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda n=n: found.append(connection.run(["echo", str(n)]).stdout))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [f"{n}\n".encode() for n in range(8)]


def test_files_and_folders_of_the_host(fleet: Fleet, connect: Connect, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/a").write_bytes(b"0123456789")
    connection = connect(fleet[0])
    assert connection.listdir(str(tmp_path / "weights")) == ["a"]
    with connection.open(str(tmp_path / "weights/a")) as file:
        file.seek(4)
        assert file.read(3) == b"456"
    with pytest.raises(FileNotFoundError):
        connection.open("/no/such/file")
    with pytest.raises(FileNotFoundError):
        connection.listdir("/no/such/folder")


def test_a_port_where_nothing_listens(fleet: Fleet, connect: Connect) -> None:
    with pytest.raises(ConnectionRefusedError):
        connect(fleet[0]).open_tcp(fleet[0].address, 9, timeout=5)


def test_ports_of_the_host_are_reached_through_it(fleet: Fleet, connect: Connect) -> None:
    """The second host's sshd, as the first host sees it."""
    stream = connect(fleet[0]).open_tcp(fleet[1].address, fleet[1].port, timeout=5)
    assert stream.makefile("rb").read(4) == b"SSH-"
    stream.close()


def test_an_answer_is_read_to_its_end_after_the_stream_was_closed(
    fleet: Fleet, connect: Connect
) -> None:
    """What `http.client` does when the server says ``Connection: close``."""
    server = socket.create_server((fleet.network.controller_address, 0))

    def answer() -> None:
        client, _ = server.accept()
        with client:
            for piece in (b"head", b"body"):
                client.sendall(piece)
                time.sleep(0.3)

    thread = threading.Thread(target=answer)
    thread.start()
    stream = connect(fleet[0]).open_tcp(*server.getsockname(), timeout=5)
    file = stream.makefile("rb")
    assert file.read(4) == b"head"
    stream.close()
    assert file.read() == b"body"
    file.close()
    assert stream._channel.closed
    thread.join()
    server.close()


def test_without_tunnels_ports_are_reached_from_here(
    restricted_key: None, fleet: Fleet, connect: Connect
) -> None:
    stream = connect(fleet[0]).open_tcp(fleet[1].address, fleet[1].port, timeout=5)
    with stream.makefile("rb") as file:
        assert file.read(4) == b"SSH-"
    stream.close()
    with pytest.raises(ConnectionRefusedError):
        connect(fleet[0]).open_tcp(fleet[0].address, 9, timeout=5)


def test_an_sshd_that_comes_back_is_waited_for(fleet: Fleet, connect: Connect) -> None:
    fleet[0].kill_sshd()
    starter = threading.Timer(0.5, fleet[0].start_sshd)
    starter.start()
    try:
        assert connect(fleet[0], retry_pauses=(1, 2, 4)).run(["echo", "ok"]).text == "ok"
    finally:
        starter.join()
        fleet[0].wait_for_sshd()


def test_a_lost_connection_is_made_anew(fleet: Fleet, connect: Connect) -> None:
    connection = connect(fleet[0])
    assert connection.run(["echo", "1"]).text == "1"
    connection.transport.close()
    assert connection.run(["echo", "2"]).text == "2"


def test_an_unknown_host_key_is_refused(fleet: Fleet, connect: Connect, tmp_path: Path) -> None:
    node = fleet[1]
    error = failure(connect(node, tmp_path / "empty"))
    shown = fingerprint(node.folder / "ssh_host_ed25519_key.pub")
    assert str(error) == (
        f"{node.address}: its host key ssh-ed25519 {shown} is not in any known_hosts file as "
        f"[{node.address}]:2222"
    )
    assert error.hint == "flagdeploy hosts trust --hosts FILE shows the keys and records them"


def test_a_changed_host_key_is_refused(fleet: Fleet, connect: Connect, tmp_path: Path) -> None:
    generate_key(tmp_path / "other")
    kind, other, *_ = (tmp_path / "other.pub").read_text().split()
    (tmp_path / "known").write_text(f"{fleet[0].address} {kind} {other}\n")
    error = failure(connect(fleet[0], tmp_path / "known"))
    shown = fingerprint(fleet[0].folder / "ssh_host_ed25519_key.pub")
    assert str(error) == (
        f"{fleet[0].address}: its host key has CHANGED: known_hosts has "
        f"{fingerprint(tmp_path / 'other.pub')} for {fleet[0].address}, the host shows {shown}. "
        "Somebody may be listening in, or the host was installed anew"
    )
    assert error.hint == (
        f"only if you know why it changed: ssh-keygen -R '{fleet[0].address}', then "
        "flagdeploy hosts trust"
    )


def test_a_wrong_key_is_refused_at_once(
    fleet: Fleet, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate_key(tmp_path / "wrong")
    monkeypatch.setenv("FLAGDEPLOY_SSH_KEY", str(tmp_path / "wrong"))
    # A retry would sleep an hour.
    error = failure(connect(fleet[0], retry_pauses=(3600,)))
    assert str(error) == (
        f"{fleet[0].address}: root@{fleet[0].address}:22 does not let in the key tried "
        f"({tmp_path / 'wrong'}): Authentication failed."
    )
    assert "~root/.ssh/authorized_keys" in str(error.hint)


def test_no_key_at_all(fleet: Fleet, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLAGDEPLOY_SSH_KEY")
    error = failure(connect(fleet[0], retry_pauses=(3600,)))
    assert "(ssh-agent and ~/.ssh/id_*): No authentication methods available" in str(error)


def test_a_key_file_that_is_not_there(
    fleet: Fleet, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLAGDEPLOY_SSH_KEY", "/no/such/key")
    error = failure(connect(fleet[0], retry_pauses=(3600,)))
    assert str(error) == f"{fleet[0].address}: /no/such/key: no such key file"


def test_a_refused_port(fleet: Fleet, connect: Connect) -> None:
    connection = connect(fleet[0])
    connection.host = Host(fleet[0].address, user="root", port=9)
    error = failure(connection)
    assert str(error) == f"{fleet[0].address}: {fleet[0].address}:9 refuses connections"
    assert error.hint == "is sshd running there, on this port?"


def test_an_unknown_name(connect: Connect, fleet: Fleet) -> None:
    connection = connect(fleet[0])
    connection.host = Host("no-such-host.invalid", user="root")
    error = failure(connection)
    assert "no-such-host.invalid" in str(error)


def test_a_dead_host_is_given_up(fleet: Fleet, connect: Connect) -> None:
    fleet[1].down()
    try:
        started = time.monotonic()
        error = failure(connect(fleet[1]))
        assert time.monotonic() - started < 30
    finally:
        fleet[1].up()
    assert str(error).startswith(f"{fleet[1].address}: ")
    assert error.hint == "is the host up?"


def test_a_host_that_dies_under_a_command(fleet: Fleet, connect: Connect) -> None:
    """The command's own deadline holds although no packet comes any more."""
    connection = connect(fleet[1])
    connection.run(["true"])
    fleet[1].down()
    try:
        with pytest.raises(HostError) as raised:
            connection.run(["echo"], timeout=1)
    finally:
        fleet[1].up()
    assert str(raised.value) == f"{fleet[1].address}: `echo` did not end within 1 s"


def test_the_users_own_ssh_config(fleet: Fleet, ssh_home: Path) -> None:
    node = fleet[1]
    (ssh_home / ".ssh").mkdir()
    (ssh_home / ".ssh/config").write_text(fleet.ssh_config())
    way = route(Host(node.name))
    assert (way.address, way.port, way.user) == (node.address, node.port, node.user)
    connection = Connection(Host(node.name), retry_pauses=())
    assert connection.run(["hostname"]).exit_code == 0
    connection.close()


def test_through_a_jump_host(fleet: Fleet, ssh_home: Path) -> None:
    first, second = fleet
    (ssh_home / ".ssh").mkdir()
    (ssh_home / ".ssh/config").write_text(
        f"Host inner\n  HostName {second.address}\n  Port {second.port}\n"
        f"  ProxyJump root@{first.address}:{first.port}\n"
    )
    connection = Connection(Host("inner", user="root"), fleet.known_hosts_path, retry_pauses=())
    client = connection.run(["printenv", "SSH_CLIENT"]).text.split()[0]
    connection.close()
    assert client == first.address


def test_the_known_hosts_file_of_the_environment(
    fleet: Fleet, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLAGDEPLOY_KNOWN_HOSTS", str(fleet.known_hosts_path))
    assert connect(fleet[0], tmp_path / "empty").run(["true"]).exit_code == 0


def test_keys_are_fetched_and_recorded(fleet: Fleet, connect: Connect, tmp_path: Path) -> None:
    path = tmp_path / "workspace" / "known_hosts"
    for node in fleet:
        host = Host(node.address, user="root", port=node.port)
        (key,) = known_hosts.fetch(host, node.address, node.port)
        assert key.fingerprint == fingerprint(node.folder / "ssh_host_ed25519_key.pub")
        known_hosts.add(path, [key])
    assert connect(fleet[0], path).run(["true"]).exit_code == 0
    assert connect(fleet[1], path).run(["true"]).exit_code == 0


def test_nagle_is_off(fleet: Fleet, connect: Connect) -> None:
    transport = connect(fleet[0]).transport
    assert isinstance(transport, paramiko.Transport)
    assert transport.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
