"""One authenticated SSH connection per host, kept for the whole run.

Commands, files, TCP and unix sockets of the host all go through it. Only the phase before
authentication is ever retried; a wrong key or an unknown host key never is.
"""

import random
import shlex
import socket
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import paramiko

from flagdeploy.config.launch import Host
from flagdeploy.errors import HostError
from flagdeploy.launchers import known_hosts
from flagdeploy.launchers.base import Result, Stream
from flagdeploy.launchers.channel import ChannelStream, open_unix
from flagdeploy.launchers.refusals import UnknownHostKey, explain, is_transient
from flagdeploy.launchers.route import Route, port_number, route

KEEPALIVE_S = 15
SILENCE_MS = 45_000
ADMINISTRATIVELY_PROHIBITED = 1  # RFC 4254, section 5.1
RETRY_PAUSES_S = (1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Timeouts:
    """Seconds for each phase of connecting."""

    connect: float = 10
    banner: float = 30
    auth: float = 30
    channel: float = 20


class _Reject(paramiko.MissingHostKeyPolicy):
    def missing_host_key(
        self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
    ) -> None:
        raise UnknownHostKey(key)


class Connection:
    """Connects when first used and again when the connection was lost. Safe for threads."""

    def __init__(
        self,
        host: Host,
        known_hosts_file: Path | None = None,
        timeouts: Timeouts = Timeouts(),
        retry_pauses: Iterable[float] | None = None,
    ) -> None:
        self.host = host
        self.name = str(host)
        self._known_hosts_file = known_hosts.override() or known_hosts_file
        self._timeouts = timeouts
        self._retry_pauses = RETRY_PAUSES_S if retry_pauses is None else tuple(retry_pauses)
        self._lock = threading.RLock()
        self._client: paramiko.SSHClient | None = None
        self._sftp: paramiko.SFTPClient | None = None
        self._jump: Connection | None = None

    @property
    def transport(self) -> paramiko.Transport:
        with self._lock:
            transport = self._client and self._client.get_transport()
            if not transport or not transport.is_active():
                self.close()
                self._client = self._connect()
                transport = self._client.get_transport()
            return cast(paramiko.Transport, transport)

    def close(self) -> None:
        with self._lock:
            for part in (self._sftp, self._client, self._jump):
                if part:
                    part.close()
            self._sftp = self._client = self._jump = None

    def run(self, argv: Sequence[str], timeout: float = 20, stdin: bytes = b"") -> Result:
        """Run a command to its end, which reads `stdin` before it writes much itself.

        Raises HostError when it does not end within `timeout` seconds or the connection is lost.
        """
        command = shlex.join(argv)
        deadline = time.monotonic() + timeout
        try:
            channel = self.transport.open_session(timeout=min(timeout, self._timeouts.channel))
            with channel:
                channel.exec_command(command)
                if stdin:
                    channel.settimeout(timeout)
                    channel.sendall(stdin)
                channel.shutdown_write()
                return self._drain(channel, command, timeout, deadline)
        except (paramiko.SSHException, EOFError, OSError) as error:
            if time.monotonic() > deadline:
                raise self._too_long(command, timeout) from None
            raise self._lost(f"`{command}`", error) from None

    def _too_long(self, command: str, timeout: float) -> HostError:
        return HostError(self.name, f"`{command}` did not end within {timeout:g} s")

    def _drain(
        self, channel: paramiko.Channel, command: str, timeout: float, deadline: float
    ) -> Result:
        """Read both outputs as they come: reading one to its end first would stop the other."""
        out, err = bytearray(), bytearray()
        pause = 0.001
        while True:
            ended = channel.exit_status_ready() and channel.eof_received
            before = len(out) + len(err)
            while channel.recv_ready():
                out += channel.recv(1 << 16)
            while channel.recv_stderr_ready():
                err += channel.recv_stderr(1 << 16)
            moved = len(out) + len(err) > before
            if ended and not moved:
                return Result(channel.recv_exit_status(), bytes(out), bytes(err))
            if channel.closed and not channel.exit_status_ready():
                raise EOFError("the connection was lost")
            if time.monotonic() > deadline:
                raise self._too_long(command, timeout)
            pause = 0.001 if moved else min(pause * 2, 0.05)
            if not moved:
                time.sleep(pause)

    def open_tcp(self, address: str, port: int, timeout: float) -> Stream:
        """TCP to `address` from the host; from here when its sshd forbids forwarding.

        Raises OSError (mostly ConnectionRefusedError) when nothing answers there.
        """
        try:
            channel = self.transport.open_channel(
                "direct-tcpip", (address, port), ("127.0.0.1", 0), timeout=timeout
            )
        except paramiko.ChannelException as error:
            if error.code == ADMINISTRATIVELY_PROHIBITED:
                return socket.create_connection((address, port), timeout)
            raise ConnectionRefusedError(f"{address}:{port}: {error.text}") from None
        except (paramiko.SSHException, EOFError) as error:
            raise self._lost(f"a tunnel to {address}:{port}", error) from None
        channel.settimeout(timeout)
        return ChannelStream(channel)

    def open_unix(self, path: str) -> ChannelStream | None:
        """A unix socket of the host; None when sshd refuses, for whatever reason."""
        try:
            return ChannelStream(open_unix(self.transport, path, self._timeouts.channel))
        except paramiko.ChannelException:
            return None
        except (paramiko.SSHException, EOFError) as error:
            raise self._lost(f"a tunnel to {path}", error) from None

    def open_command(self, argv: Sequence[str]) -> ChannelStream:
        """Standard input and output of a command as one stream."""
        try:
            channel = self.transport.open_session(timeout=self._timeouts.channel)
            channel.exec_command(shlex.join(argv))
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self._lost(f"`{shlex.join(argv)}`", error) from None
        return ChannelStream(channel)

    @property
    def sftp(self) -> paramiko.SFTPClient:
        with self._lock:
            transport = self.transport
            if self._sftp is None:
                try:
                    self._sftp = paramiko.SFTPClient.from_transport(transport)
                except (paramiko.SSHException, EOFError) as error:
                    raise HostError(
                        self.name,
                        f"no file transfer (SFTP): {error}",
                        "sshd_config on the host needs the line: Subsystem sftp internal-sftp",
                    ) from None
            return cast(paramiko.SFTPClient, self._sftp)

    def open(self, path: str) -> BinaryIO:
        return cast(BinaryIO, self.sftp.open(path, "rb"))

    def listdir(self, path: str) -> list[str]:
        return self.sftp.listdir(path)

    def _connect(self) -> paramiko.SSHClient:
        way = route(self.host)
        for pause in (*self._retry_pauses, None):
            began = time.monotonic()
            try:
                return self._attempt(way)
            except (OSError, EOFError, paramiko.SSHException) as error:
                silent = time.monotonic() - began >= self._timeouts.banner
                if pause is None or silent or not is_transient(error):
                    raise explain(self.name, way, error, self._timeouts.connect) from None
                time.sleep(pause * random.uniform(0.8, 1.2))
        raise AssertionError("the last attempt returns or raises")

    def _attempt(self, way: Route) -> paramiko.SSHClient:
        client = paramiko.SSHClient()
        client.set_missing_host_key_policy(_Reject())
        own = [self._known_hosts_file] if self._known_hosts_file else []
        known_hosts.load(client, [*way.known_hosts, *own])
        try:
            client.connect(
                way.address,
                port=way.port,
                username=way.user,
                key_filename=cast(Any, list(way.keys) or None),
                look_for_keys=not way.keys,
                allow_agent=way.agent,
                sock=self._socket(way),
                banner_timeout=self._timeouts.banner,
                auth_timeout=self._timeouts.auth,
                channel_timeout=self._timeouts.channel,
            )
        except BaseException:
            client.close()
            raise
        cast(paramiko.Transport, client.get_transport()).set_keepalive(KEEPALIVE_S)
        return client

    def _socket(self, way: Route) -> "socket.socket | paramiko.Channel":
        if way.jump:
            return self._through(way)
        sock = socket.create_connection((way.address, way.port), self._timeouts.connect)
        # paramiko leaves Nagle's algorithm on: 40 ms for every small exchange.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Nor does it notice a host that went silent; the kernel (Linux) does, thanks to keepalives.
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_MS)
        return sock

    def _through(self, way: Route) -> paramiko.Channel:
        """A channel through the jump host; of a chain, the last hop is reached by the others."""
        user, _, place = str(way.jump).rpartition(",")[2].rpartition("@")
        address, _, port = place.partition(":")
        hop = Host(address, user=user or None, port=port_number(self.host, port or "22"))
        self._jump = Connection(hop, self._known_hosts_file, self._timeouts, self._retry_pauses)
        return self._jump.transport.open_channel(
            "direct-tcpip",
            (way.address, way.port),
            ("127.0.0.1", 0),
            timeout=self._timeouts.channel,
        )

    def _lost(self, what: str, error: Exception) -> HostError:
        if isinstance(error, HostError):
            return error
        return HostError(
            self.name, f"{what}: {error or 'the connection was lost'}", "is the host still up?"
        )
