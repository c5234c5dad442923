"""Trials as processes: each alone with its operators, watched, written down."""

import itertools
import json
import os
import queue
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flagdeploy.errors import EngineError
from flagdeploy.operators.bisect import Group
from flagdeploy.operators.outcome import UNTRIED, Bounds, Outcome, crash, judge
from flagdeploy.operators.trial_state import State
from flagdeploy.operators.watch import Limits, beat, end, watch

AGAIN = 3  # times that a trial may run out of time while it compiles: kernels stay compiled
PROGRAM = (sys.executable, "-m", "flagdeploy.server.operator_trial")


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
        self._state = State(folder, {"request": self._request})
        self._pool, self._jobs = ThreadPoolExecutor(jobs), jobs
        self._places: queue.SimpleQueue[int] = queue.SimpleQueue()
        for place in range(jobs):
            self._places.put(place)
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False
        self._numbers = itertools.count(len(list(folder.glob("*.err"))))
        self.native_s = 0.0
        self.bounds = Bounds(0.0, 0.0)
        self.done: Callable[[Group, Outcome], None] = lambda group, outcome: None

    def native(self, name: str, **more: Any) -> dict[str, Any]:
        """The verdict of a process without the library's operators, or the remembered one.

        Raises EngineError when it fails: then nothing can be said of the operators.
        """
        if name in self._state.known:
            return dict(self._state.known[name]["verdict"])
        verdict, outcome = self._process(name, more)
        if verdict is None:
            assert outcome is not None
            raise EngineError(
                f"the {name} run failed: {outcome.evidence}", f"see {self._folder / name}.err"
            )
        self._state.write({"name": name, "verdict": verdict})
        return verdict

    def outcomes(self, groups: Sequence[Group]) -> list[Outcome]:
        """One per group; what neighbours may have done is tried again without them.

        Raises EngineError for a trial that never came to its operators.
        """
        found = list(self._pool.map(self._outcome, groups))
        for index, outcome in enumerate(found):
            # A larger group that hangs is split, which shows as much for less time.
            waits = outcome.kind != "hung" or len(groups[index]) == 1
            if min(self._jobs, len(groups)) > 1 and outcome.crowded and waits:
                found[index] = self.alone(groups[index])
            _require_tried(found[index])
        return found

    def alone(self, group: Group) -> Outcome:
        """Another trial of `group`, with nothing beside it."""
        return self._outcome(group, alone=True)

    def excluding(self, names: Sequence[str]) -> Outcome:
        """The library with everything on but `names`, as engines are told to run it."""
        key = f"as served without {','.join(sorted(names))}"
        outcome = self._judged({"exclude": sorted(names)}, key, jobs=1)
        _require_tried(outcome)
        return outcome

    def stop(self) -> None:
        """End what runs; what is finished is written down."""
        self._stopped = True
        for process in list(self._running):
            end(process)
        self._pool.shutdown(cancel_futures=True)
        self._state.close()

    def _outcome(self, group: Group, alone: bool = False) -> Outcome:
        names = sorted(group)
        key = ",".join(names) + (" alone" * alone)
        outcome = self._judged({"include": names}, key, jobs=1 if alone else self._jobs)
        self.done(group, outcome)
        return outcome

    def _judged(self, request: Mapping[str, Any], key: str, jobs: int) -> Outcome:
        known = self._state.known.get(key)
        if known and not self._has_more_time(known) and not self._has_more_room(known, jobs):
            return self._remembered(known)
        for _ in range(AGAIN):
            trial = f"{next(self._numbers):04d}"
            verdict, outcome = self._process(trial, request)
            if outcome is None or outcome.kind != "compiling":
                break
        if self._stopped:
            raise KeyboardInterrupt
        row = {"name": key, "trial": trial, "verdict": verdict, "jobs": jobs}
        if outcome is not None:
            row |= {"outcome": asdict(outcome), "limits": asdict(self._limits)}
        if outcome is None or outcome.kind != UNTRIED:
            self._state.write(row)
        return self._remembered(row)

    def _has_more_time(self, row: Mapping[str, Any]) -> bool:
        """Did that trial run out of time that it would have now?"""
        limit = {"hung": "silent", "compiling": "whole", "slow": "whole"}
        name = limit.get((row.get("outcome") or {}).get("kind", ""))
        had = row.get("limits", {}).get(name)
        return name is not None and had is not None and had < getattr(self._limits, name)

    def _has_more_room(self, row: Mapping[str, Any], jobs: int) -> bool:
        """Could neighbours, of which it has none now, have done what that trial did?"""
        return jobs == 1 and row.get("jobs") != 1 and self._remembered(row).crowded

    def _remembered(self, row: Mapping[str, Any]) -> Outcome:
        if row["verdict"] is not None:
            return judge(row["verdict"], self.native_s, self.bounds)
        return Outcome(**row["outcome"])

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
        beats, errors = verdict.with_suffix(".beat"), verdict.with_suffix(".err")
        asked.write_text(json.dumps(request))
        verdict.unlink(missing_ok=True)
        beats.unlink(missing_ok=True)
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
        if self._stopped:  # meanwhile, by a thread that did not see it yet
            end(process)
        try:
            late = watch(process, beats, self._limits)
        finally:
            self._running.discard(process)
            end(process)
        if late is not None:
            return None, late
        if process.returncode == 0 and verdict.exists():
            return json.loads(verdict.read_bytes()), None
        lines = errors.read_text(errors="replace").splitlines()
        return None, crash(process.returncode, lines, beat(beats).get("stage", "start"))


def _require_tried(outcome: Outcome) -> None:
    if outcome.kind == UNTRIED:
        raise EngineError(
            f"a trial ended before an operator was on: {outcome.evidence}",
            "the native run came further: fewer --jobs leave each more memory and time, --silent "
            "allows more; the same command goes on where this one stopped",
        )
