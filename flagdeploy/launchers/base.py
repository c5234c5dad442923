"""What every launcher can do: one object per host, used by the workflows."""

import fnmatch
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from flagdeploy.config.facts import HostFacts
from flagdeploy.config.launch import File, Host, Running, Spec
from flagdeploy.records.events import Report


@dataclass(frozen=True)
class Result:
    """What a command gave."""

    exit_code: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        return self.stdout.decode(errors="replace").strip()


class Stream(Protocol):
    """The part of a socket that `http.client` uses."""

    @property
    def makefile(self) -> Callable[..., Any]: ...
    def sendall(self, data: bytes, /) -> None: ...
    def settimeout(self, value: float | None, /) -> None: ...
    def close(self) -> None: ...


class Launcher(Protocol):
    """One host. Every method raises HostError when the host or its engine does not answer."""

    host: Host

    def probe(self, name: str, devices: Sequence[str], ports: Iterable[int]) -> HostFacts:
        """Read what a plan needs to know; `devices` are paths that may hold wildcards."""

    def engine_version(self) -> str:
        """What runs the ranks, e.g. ``Docker 27.3.1``."""

    def run(self, argv: Sequence[str], timeout: float = 20, stdin: bytes = b"") -> Result:
        """Run a command on the host to its end; a non-zero exit code is no error."""

    def pull(self, image: str, report: Report) -> str:
        """Make the host hold `image` and return its id; reports bytes per layer."""

    def start(self, spec: Spec) -> str:
        """Create and start one rank and return its id; at once when it already runs."""

    def put(self, id: str, files: Sequence[File]) -> None:
        """Write files into a container of ours, running or not, in its mounted folders too."""

    def inside(self, id: str, argv: Sequence[str], timeout: float = 20) -> Result:
        """Run a command beside a running rank, in its container, to its end; a non-zero exit code
        is no error, and a program that the container lacks gives 126 or 127."""

    def stop(self, id: str, timeout: int | None = None) -> None:
        """SIGTERM, SIGKILL after `timeout` seconds (None: what the rank was started with), then
        remove; an unknown id is no error."""

    def running(self, name: str | None = None) -> tuple[Running, ...]:
        """Ranks of deployment `name` (of all deployments: None) in any state, by rank."""

    def logs(self, id: str, *, follow: bool = False, tail: int | None = None) -> Iterator[bytes]:
        """Pieces of stdout and stderr in the order of writing, the last `tail` lines only."""

    def progress(self, id: str) -> tuple[Hashable, ...]:
        """Coarse signs of life; any value that was not seen before means that work goes on."""

    def connect(self, address: str, port: int, timeout: float) -> Stream:
        """TCP to `address` as the host sees it; OSError when nothing listens there."""

    def open(self, path: str) -> BinaryIO:
        """Read a file of the host; OSError as the built-in `open` raises it."""

    def listdir(self, path: str) -> list[str]:
        """Names in a folder of the host; OSError as `os.listdir` raises it."""

    def close(self) -> None:
        """Give up the connection; what was started goes on running."""


def expand(pattern: str, listdir: Callable[[str], list[str]]) -> list[str]:
    """Paths that match an absolute `pattern` (``*``, ``?``, ``[0-9]``), sorted; no shell involved.

    `listdir` raises OSError for what is no readable folder; such a branch matches nothing.
    """
    matches = [""]
    for part in pattern.strip("/").split("/"):
        matches = [
            f"{folder}/{name}"
            for folder in matches
            for name in _names(folder or "/", listdir)
            if fnmatch.fnmatchcase(name, part)
        ]
    return sorted(matches)


def _names(folder: str, listdir: Callable[[str], list[str]]) -> list[str]:
    try:
        return listdir(folder)
    except OSError:
        return []


def listening_ports(table: str) -> frozenset[int]:
    """TCP ports in state LISTEN (0A) in the text of /proc/net/tcp and tcp6 (proc(5))."""
    rows = (line.split() for line in table.splitlines())
    return frozenset(
        int(row[1].rpartition(":")[2], 16) for row in rows if len(row) > 3 and row[3] == "0A"
    )


# Dates, times and durations: a warning that repeats every minute is no progress.
_CLOCK = re.compile(rb"\d+([-:/.,]\d+){2,}\S*|\d+([.,]\d+)? ?(ms|s|sec|seconds|min|minutes)\b")


def sign_of_life(log: bytes) -> bytes:
    """The last line of a log without its clock, so that a repeated line equals itself."""
    lines = log.replace(b"\r", b"\n").split(b"\n")
    last = next((line for line in reversed(lines) if line.strip()), b"")
    return _CLOCK.sub(b"", last)
