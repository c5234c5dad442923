"""Which processes of this machine belong to a rank: found by what they carry, never by name.

A pid alone proves nothing: the kernel gives it to another process later. A process is ours when
its session's leader is the very process we started (pid, start time and boot), or when it carries
our token in its environment, or when it writes to our log. The last two also find processes that
left the session or outlived its leader.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TOKEN = "FLAGDEPLOY_PROCESS"
_PROC = Path("/proc")


@dataclass(frozen=True)
class Stat:
    """The fields of /proc/PID/stat that identify a process (proc(5))."""

    state: str
    session: int
    start: int
    """Clock ticks since boot."""


@dataclass(frozen=True)
class Session:
    """A session that we started: its leader, the token its members inherit, the log they share."""

    pid: int
    start: int
    boot: str
    token: str
    log: Path

    @property
    def leader_lives(self) -> bool:
        found = stat(self.pid)
        return self._is_leader(found) and found is not None and found.state not in "ZX"

    def members(self) -> list[int]:
        """Living processes of this session, wherever they went."""
        return [pid for pid in _pids() if self._owns(pid)]

    def signal(self, number: signal.Signals) -> int:
        """Send a signal to every member and return how many there were.

        Through pidfds: a pid that changes hands between look and signal is not hit.
        """
        members = self.members()
        for pid in members:
            with contextlib.suppress(ProcessLookupError), _pidfd(pid) as descriptor:
                if self._owns(pid):
                    signal.pidfd_send_signal(descriptor, number)
        return len(members)

    def end(self, timeout: float) -> None:
        """SIGTERM, then SIGKILL after `timeout` seconds, until no member is left."""
        deadline = time.monotonic() + timeout
        remaining = self.signal(signal.SIGTERM)
        while remaining and time.monotonic() < deadline:
            time.sleep(0.05)
            self.reap()
            remaining = len(self.members())
        while remaining:
            remaining = self.signal(signal.SIGKILL)
            time.sleep(0.02)
        self.reap()

    def reap(self) -> None:
        """Collect the leader's exit status if it is a child of this process."""
        if self._is_leader(stat(self.pid)):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, os.WNOHANG)

    def memory(self) -> int:
        """Resident memory of all members in pages."""
        return sum(_numbers(pid, "statm")[1] for pid in self.members())

    def _is_leader(self, found: Stat | None) -> bool:
        return found is not None and found.start == self.start and boot_id() == self.boot

    def _owns(self, pid: int) -> bool:
        found = stat(pid)
        if found is None or found.state in "ZX":
            return False
        if found.session == self.pid and self._is_leader(stat(self.pid)):
            return True
        return self._carries_token(pid) or self._writes_log(pid)

    def _carries_token(self, pid: int) -> bool:
        with contextlib.suppress(OSError):
            environment = (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
            return f"{TOKEN}={self.token}".encode() in environment
        return False

    def _writes_log(self, pid: int) -> bool:
        for descriptor in ("1", "2"):
            with contextlib.suppress(OSError):
                if (_PROC / str(pid) / "fd" / descriptor).samefile(self.log):
                    return True
        return False


def stat(pid: int) -> Stat | None:
    """None when there is no such process."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The command, in parentheses, may itself hold spaces and parentheses.
    fields = text.rpartition(")")[2].split()
    return Stat(state=fields[0], session=int(fields[3]), start=int(fields[19]))


def boot_id() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def _pids() -> list[int]:
    return [int(path.name) for path in _PROC.iterdir() if path.name.isdigit()]


def _numbers(pid: int, name: str) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(number) for number in (_PROC / str(pid) / name).read_text().split()]
    return [0, 0]


@contextlib.contextmanager
def _pidfd(pid: int) -> Iterator[int]:
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
