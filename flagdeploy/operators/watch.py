"""A trial's process, watched by its heartbeat until it ends or its time is up."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flagdeploy.operators.outcome import Outcome, stopped

_IDLE_CPU = 0.1  # CPU seconds a second; below it nothing computes
_LOOK_S = 0.5


@dataclass(frozen=True)
class Limits:
    """Seconds: `silent` without progress (a new stage or kernel) is a hang, `whole` is the most for
    one process."""

    silent: float
    whole: float


class Progress:
    """What heartbeats say of one process, and whether its time is up."""

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._started = self._changed = now
        self._last: Mapping[str, Any] = {}
        self._first: Mapping[str, Any] | None = None

    def late(self, now: float, said: Mapping[str, Any]) -> Outcome | None:
        """What the process did, when its time is up."""
        if said and self._first is None:
            self._first = said
        if any(said.get(key) != self._last.get(key) for key in ("stage", "compiled")):
            self._changed, self._last = now, said
        stage = said.get("stage", "start")
        if now - self._changed > self._limits.silent:
            what = "computing" if self._busy(now, said) else "idle"
            evidence = f"no progress for {self._limits.silent:g} s in {stage}, {what}"
            return stopped("hung", evidence, stage)
        if now - self._started > self._limits.whole:
            evidence = f"in {stage} after {self._limits.whole:g} s, making progress"
            compiling = stage.startswith("pass 1") or self._compiled(said)
            return stopped("compiling" if compiling else "slow", evidence, stage)
        return None

    def _busy(self, now: float, said: Mapping[str, Any]) -> bool:
        spent = said.get("cpu_s", 0.0) - self._last.get("cpu_s", 0.0)
        return bool(spent / (now - self._changed) > _IDLE_CPU)

    def _compiled(self, said: Mapping[str, Any]) -> bool:
        """Then a pass that is not over may only have begun late: with what it compiled, the next
        try shows whether it is slow."""
        return bool(said.get("compiled", 0) > (self._first or {}).get("compiled", 0))


def watch(process: subprocess.Popen[bytes], beats: Path, limits: Limits) -> Outcome | None:
    """None when the process ended by itself; else what it did when its time was up."""
    progress = Progress(limits, time.monotonic())
    while not _ended(process):
        time.sleep(_LOOK_S)
        if late := progress.late(time.monotonic(), beat(beats)):
            if late.kind == "hung":
                _stacks(process)
            return late
    return None


def beat(path: Path) -> dict[str, Any]:
    try:
        said: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    return said


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and what it started (compilers), which share its session."""
    if process.returncode is None:
        with suppress(ProcessLookupError):  # nobody of it is left
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _ended(process: subprocess.Popen[bytes]) -> bool:
    """Without taking note of it: until then its id, by which its group is killed, is nobody
    else's."""
    try:
        return bool(os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT))
    except ChildProcessError:  # another thread ended it
        return True


def _stacks(process: subprocess.Popen[bytes]) -> None:
    """Ask for the stacks of all threads, which land in the trial's ``.err``."""
    process.send_signal(signal.SIGUSR1)
    time.sleep(0.2)
