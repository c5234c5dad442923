"""Containers on a host reached by SSH: commands, files and the Docker API over one connection."""

import shlex
from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from flagdeploy.config.facts import HostFacts
from flagdeploy.config.launch import ContainerSpec, File, Host, Running, Spec
from flagdeploy.errors import HostError, UsageError
from flagdeploy.launchers.base import Result, Stream, expand, listening_ports
from flagdeploy.launchers.connection import Connection
from flagdeploy.launchers.docker import HINTS, Engine
from flagdeploy.records.events import Report

DEFAULT_SOCKET = "unix:///var/run/docker.sock"


class SshLauncher:
    """One host of an inventory. See `flagdeploy.launchers.base.Launcher`."""

    def __init__(self, host: Host, known_hosts_file: Path | None = None) -> None:
        self.host = host
        self.connection = Connection(host, known_hosts_file)
        self.engine = Engine(str(host), self._dial)
        self._socket: str | None = None
        self._tunnelled = True

    def probe(self, name: str, devices: Sequence[str], ports: Iterable[int]) -> HostFacts:
        tables = self.run(["cat", "/proc/net/tcp", "/proc/net/tcp6"])
        nodes = [node for pattern in devices for node in expand(pattern, self.listdir)]
        return HostFacts(
            images=self.engine.images(),
            running=self.running(name),
            device_nodes=tuple(dict.fromkeys(nodes)),
            ports_in_use=listening_ports(tables.text) & set(ports),
        )

    def engine_version(self) -> str:
        return f"Docker {self.engine.version()}"

    def run(self, argv: Sequence[str], timeout: float = 20, stdin: bytes = b"") -> Result:
        return self.connection.run(argv, timeout, stdin)

    def pull(self, image: str, report: Report) -> str:
        return self.engine.pull(image, report)

    def start(self, spec: Spec) -> str:
        if not isinstance(spec, ContainerSpec):
            raise UsageError("the ssh launcher starts containers; --launcher local for processes")
        return self.engine.start(spec)

    def put(self, id: str, files: Sequence[File]) -> None:
        self.engine.put(id, files)

    def inside(self, id: str, argv: Sequence[str], timeout: float = 20) -> Result:
        return self.engine.inside(id, argv, timeout)

    def stop(self, id: str, timeout: int | None = None) -> None:
        self.engine.stop(id, timeout)

    def running(self, name: str | None = None) -> tuple[Running, ...]:
        return self.engine.running(name)

    def logs(self, id: str, *, follow: bool = False, tail: int | None = None) -> Iterator[bytes]:
        return self.engine.logs(id, follow, tail)

    def progress(self, id: str) -> tuple[Hashable, ...]:
        return self.engine.progress(id)

    def connect(self, address: str, port: int, timeout: float) -> Stream:
        return self.connection.open_tcp(address, port, timeout)

    def open(self, path: str) -> BinaryIO:
        return self.connection.open(path)

    def listdir(self, path: str) -> list[str]:
        return self.connection.listdir(path)

    def close(self) -> None:
        self.engine.close()
        self.connection.close()

    @property
    def socket(self) -> str:
        """The engine's address: `docker=` of the inventory, else the host's own $DOCKER_HOST."""
        if self._socket is None:
            self._socket = (
                self.host.docker or self.run(["printenv", "DOCKER_HOST"]).text or DEFAULT_SOCKET
            )
        return self._socket

    def _dial(self) -> Stream:
        """One stream to the engine: a forwarded socket, else `docker system dial-stdio`."""
        scheme, _, place = self.socket.partition("://")
        if scheme == "tcp":
            address, _, port = place.partition(":")
            return self.connection.open_tcp(address, int(port or 2375), timeout=20)
        if scheme != "unix":
            raise HostError(
                str(self.host), f"cannot use a Docker engine at {self.socket}", "unix:// or tcp://"
            )
        if self._tunnelled and (stream := self.connection.open_unix(place)):
            return stream
        # sshd does not say why it refused; the docker command does.
        self._ask_docker()
        self._tunnelled = False
        return self.connection.open_command(["docker", "-H", self.socket, "system", "dial-stdio"])

    def _ask_docker(self) -> None:
        argv = ["docker", "-H", self.socket, "version", "--format", "{{.Server.Version}}"]
        result = self.run(argv)
        if result.exit_code:
            text = result.stderr.decode(errors="replace").strip()
            hint = next((h for part, h in HINTS.items() if part in text.lower()), None)
            raise HostError(
                str(self.host),
                f"no Docker engine at {self.socket}: {text}",
                hint or f"is dockerd running? on the host: {shlex.join(argv)}",
            )
