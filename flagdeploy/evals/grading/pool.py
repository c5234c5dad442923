"""Processes that compare mathematics, each replaced when it hangs, dies or eats memory."""

import contextlib
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

from flagdeploy.errors import EvalError

START_PATIENCE_S = 120.0  # importing sympy and math-verify, on a busy machine
# Processor time is what is limited; a process that waits for nothing is ended after this many
# times its limit by the clock.
PATIENCE = 20.0


@dataclass(frozen=True)
class Comparison:
    """Whether the two were equal, or why nobody knows."""

    equal: bool
    error: str = ""


class Pool:
    """Up to `workers` processes, started as they are needed; safe to use from several threads.

    `cpu_seconds` of processor time and `memory` bytes are what one comparison may take.
    """

    def __init__(self, workers: int = 2, cpu_seconds: float = 5.0, memory: int = 2 << 30) -> None:
        self.workers = workers
        self.cpu_seconds = cpu_seconds
        self.memory = memory
        self.started = 0
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(workers):
            self._idle.put(None)
        self._lock = threading.Lock()

    def compare(self, rule: str, prediction: str, gold: str) -> Comparison:
        """Compare by `rule` (a name of worker.COMPARISONS); waits while all workers are busy.

        Raises EvalError when the packages that grade mathematics are not installed.
        """
        worker = self._idle.get()
        try:
            if worker is None:
                worker = self._start()
            found = worker.ask({"rule": rule, "prediction": prediction, "gold": gold})
            if worker.dead:
                worker = None
        except BaseException:
            if worker is not None:
                worker.end()
            worker = None
            raise
        finally:
            self._idle.put(worker)
        return found

    def close(self) -> None:
        """End the processes, each as soon as it is idle; a later comparison starts new ones."""
        for worker in [self._idle.get() for _ in range(self.workers)]:
            if worker is not None:
                worker.end()
            self._idle.put(None)

    def _start(self) -> "_Worker":
        with self._lock:
            self.started += 1
        return _Worker(self.cpu_seconds, self.memory)


class _Worker:
    def __init__(self, cpu_seconds: float, memory: int) -> None:
        self.dead = False
        self._cpu_seconds = cpu_seconds
        self._buffer = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.worker", str(cpu_seconds), str(memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            start_new_session=True,  # Ctrl-C is for this process to handle
        )
        missing = self._read(START_PATIENCE_S)
        if missing == []:
            return
        self.end()
        if missing is None:
            raise EvalError(f"a grading process did not start: {self._how_it_ended(0.0)}")
        raise EvalError(
            f"grading mathematics needs {', '.join(missing)}, which cannot be imported",
            hint="pip install 'flagdeploy[eval]'",
        )

    def ask(self, job: dict[str, str]) -> Comparison:
        began = time.monotonic()
        pipe = self._process.stdin
        assert pipe is not None
        answer = None
        with contextlib.suppress(BrokenPipeError):
            pipe.write(json.dumps(job).encode() + b"\n")
            pipe.flush()
            answer = self._read(PATIENCE * self._cpu_seconds)
        if answer is None:
            self.end()
            return Comparison(False, self._how_it_ended(time.monotonic() - began))
        return Comparison(bool(answer.get("equal")), answer.get("error", ""))

    def end(self) -> None:
        self.dead = True
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def _read(self, patience: float) -> Any:
        """One JSON line, or None when the process ended or the patience did."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + patience
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                return None
            piece = os.read(descriptor, 1 << 16)
            if not piece:
                self._process.wait()
                return None
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def _how_it_ended(self, seconds: float) -> str:
        code = self._process.returncode
        if code == -signal.SIGXCPU:
            return f"timed out after {self._cpu_seconds:g} s of processor time"
        if code == -signal.SIGKILL and seconds >= PATIENCE * self._cpu_seconds:
            return f"timed out after {seconds:.0f} s"
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"the grading process ended ({name})"


def _environment() -> dict[str, str]:
    """The way to our modules and nothing else: hostile text meets no key or token."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONHASHSEED": "0",  # sympy orders by hashes; the same answers give the same grades
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",  # numpy, should sympy load it, reserves memory per thread
    }
