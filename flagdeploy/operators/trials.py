"""Trials as processes: each alone with its operators, watched by its heartbeat, written down."""

import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flagdeploy.errors import EngineError, UsageError
from flagdeploy.operators.bisect import Group
from flagdeploy.operators.outcome import Bounds, Outcome, crash, judge
from flagdeploy.records.files import append_private

STATE = "trials.jsonl"
AGAIN = 3  # times that a trial may run out of time while it compiles: kernels stay compiled
_IDLE_CPU = 0.1  # CPU seconds a second; below it nothing computes
_LOOK_S = 0.5
PROGRAM = (sys.executable, "-m", "flagdeploy.server.operator_trial")


@dataclass(frozen=True)
class Limits:
    """Seconds: `silent` without progress (a new stage or kernel) is a hang, `whole` is the most for
    one process."""

    silent: float
    whole: float


class Trials:
    """Runs trials in `folder`, at most `jobs` at once.

    Each trial leaves ``NNN.json`` (verdict), ``NNN.err`` and ``NNN.ops`` there. Triton's compiled
    kernels are shared; the library's own tuning database is one per place of the `jobs`, because
    several writers lock one another out.
    """

    def __init__(
        self,
        folder: Path,
        request: Mapping[str, Any],
        *,
        limits: Limits,
        jobs: int = 1,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self._program = list(program)
        self._folder, self._request, self._limits = folder, dict(request), limits
        self._pool = ThreadPoolExecutor(jobs)
        self._places: queue.SimpleQueue[int] = queue.SimpleQueue()
        for place in range(jobs):
            self._places.put(place)
        self._state = folder / STATE
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False
        self._known = self._read()
        self._numbers = itertools.count(len(list(folder.glob("*.err"))))
        self.native_s = 0.0
        self.bounds = Bounds(0.0, 0.0)
        self.done: Callable[[Group, Outcome], None] = lambda group, outcome: None

    def native(self, name: str, **more: Any) -> dict[str, Any]:
        """The verdict of a process without the library's operators, or the remembered one.

        Raises EngineError when it fails: then nothing can be said of the operators.
        """
        if name in self._known:
            return dict(self._known[name])
        verdict, outcome = self._process(name, more)
        if verdict is None:
            assert outcome is not None
            raise EngineError(
                f"the {name} run failed: {outcome.evidence}", f"see {self._folder / name}.err"
            )
        self._write({"name": name, "verdict": verdict})
        return verdict

    def outcomes(self, groups: Sequence[Group]) -> list[Outcome]:
        """One per group; a slow one is tried again alone, for neighbours take time away."""
        found = list(self._pool.map(self._outcome, groups))
        for index, outcome in enumerate(found):
            if outcome.kind == "slow" and len(groups) > 1:
                found[index] = self._outcome(groups[index], alone=True)
        return found

    def excluding(self, names: Sequence[str]) -> Outcome:
        """The library with everything on but `names`, as engines are told to run it."""
        return self._judged(
            {"exclude": sorted(names)}, f"as served without {','.join(sorted(names))}"
        )

    def stop(self) -> None:
        """End what runs; what is finished is written down."""
        self._stopped = True
        for process in list(self._running):
            _end(process)
        self._pool.shutdown(cancel_futures=True)

    def _outcome(self, group: Group, alone: bool = False) -> Outcome:
        names = sorted(group)
        outcome = self._judged({"include": names}, ",".join(names) + (" alone" * alone))
        self.done(group, outcome)
        return outcome

    def _judged(self, request: Mapping[str, Any], key: str) -> Outcome:
        if key in self._known:
            return self._remembered(self._known[key])
        for _ in range(AGAIN):
            trial = f"{next(self._numbers):04d}"
            verdict, outcome = self._process(trial, request)
            if outcome is None or outcome.kind != "compiling":
                break
        if self._stopped:
            raise KeyboardInterrupt
        self._write({"name": key, "trial": trial, "verdict": verdict} | _stored(outcome))
        return self._remembered(self._known[key])

    def _remembered(self, entry: Mapping[str, Any]) -> Outcome:
        if entry["verdict"] is not None:
            return judge(entry["verdict"], self.native_s, self.bounds)
        return Outcome(**entry["outcome"])

    def _process(
        self, name: str, more: Mapping[str, Any]
    ) -> tuple[dict[str, Any] | None, Outcome | None]:
        place = self._places.get()
        try:
            if self._stopped:
                raise KeyboardInterrupt
            return self._run(name, {**self._request, **more}, place)
        finally:
            self._places.put(place)

    def _run(
        self, name: str, request: Mapping[str, Any], place: int
    ) -> tuple[dict[str, Any] | None, Outcome | None]:
        asked, verdict = self._folder / f"{name}.request", self._folder / f"{name}.json"
        asked.write_text(json.dumps(request))
        verdict.unlink(missing_ok=True)
        errors = self._folder / f"{name}.err"
        env = os.environ | {
            "TRITON_CACHE_DIR": str(self._folder / "triton"),
            "FLAGGEMS_CACHE_DIR": str(self._folder / f"tuning-{place}"),
        }
        command = [*self._program, str(asked), str(verdict)]
        with errors.open("wb") as stderr:
            process = subprocess.Popen(
                command, stdout=stderr, stderr=stderr, env=env, start_new_session=True
            )
        self._running.add(process)
        try:
            late = self._watch(process, verdict.with_suffix(".beat"))
        finally:
            self._running.discard(process)
            _end(process)
        if late is not None:
            return None, late
        if process.returncode == 0 and verdict.exists():
            return json.loads(verdict.read_bytes()), None
        lines = errors.read_text(errors="replace").splitlines()
        stage = _beat(verdict.with_suffix(".beat")).get("stage", "start")
        return None, crash(process.returncode, lines, stage)

    def _watch(self, process: subprocess.Popen[bytes], beat: Path) -> Outcome | None:
        """None when the process ended by itself; else what it did when its time was up."""
        started = changed = time.monotonic()
        last: dict[str, Any] = {}
        cpu = 0.0
        while process.poll() is None:
            time.sleep(_LOOK_S)
            now, said = time.monotonic(), _beat(beat)
            if any(said.get(key) != last.get(key) for key in ("stage", "compiled")):
                changed, last, cpu = now, said, said.get("cpu_s", 0.0)
            stage = said.get("stage", "start")
            if now - changed > self._limits.silent:
                busy = (said.get("cpu_s", 0.0) - cpu) / (now - changed) > _IDLE_CPU
                what = "computing" if busy else "idle"
                _stacks(process)
                evidence = f"no progress for {self._limits.silent:g} s in {stage}, {what}"
                return Outcome("hung", evidence, {})
            if now - started > self._limits.whole:
                evidence = f"in {stage} after {self._limits.whole:g} s, making progress"
                first = stage.startswith("pass 1")
                return Outcome("compiling" if first else "slow", evidence, {})
        return None

    def _read(self) -> dict[str, Any]:
        """Finished trials; the first line says of what, and a torn last line is left out."""
        about = {"request": self._request}
        lines = self._state.read_bytes().splitlines(True) if self._state.exists() else []
        whole = [json.loads(line) for line in lines if line.endswith(b"\n")]
        if not whole:
            self._state.unlink(missing_ok=True)
            append_private(self._state, json.dumps(about).encode() + b"\n")
        elif whole[0] != json.loads(json.dumps(about)):
            raise UsageError(
                f"{self._state}: holds trials of another model, probe, library or version",
                "continue with what it was started with, or give another --out",
            )
        elif len(whole) < len(lines):
            self._state.write_bytes(b"".join(lines[: len(whole)]))
        return {row["name"]: row.get("verdict") if _is_native(row) else row for row in whole[1:]}

    def _write(self, row: Mapping[str, Any]) -> None:
        append_private(self._state, json.dumps(row).encode() + b"\n")
        self._known[row["name"]] = row["verdict"] if _is_native(row) else row


def _is_native(row: Mapping[str, Any]) -> bool:
    return "trial" not in row


def _stored(outcome: Outcome | None) -> dict[str, Any]:
    return {} if outcome is None else {"outcome": asdict(outcome)}


def _beat(path: Path) -> dict[str, Any]:
    try:
        said: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    return said


def _stacks(process: subprocess.Popen[bytes]) -> None:
    """Ask for the stacks of all threads, which land in the trial's ``.err``."""
    process.send_signal(signal.SIGUSR1)
    time.sleep(0.2)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and what it started (compilers), which share its session."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
