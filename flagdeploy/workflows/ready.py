"""Wait until a deployment generates a token; end when a rank dies or nothing moves any more."""

import re
import threading
import time
from collections.abc import Hashable, Mapping

from flagdeploy.config.launch import Running
from flagdeploy.errors import EngineError, HostError
from flagdeploy.launchers.base import Launcher
from flagdeploy.plans.steps import WaitReady
from flagdeploy.records.events import Event, Report, silent
from flagdeploy.workflows.endpoint import Answer, ask
from flagdeploy.workflows.fanout import each

# Words of an engine's log -> the phase of a start. The last one that the last line shows counts.
PHASES = (
    (re.compile(r"load(ing)?.{0,40}(safetensors|weights|checkpoint|shard|model)", re.I), "loading"),
    (re.compile(r"graph captur|captur\w+ .{0,20}graph", re.I), "capturing graphs"),
    (re.compile(r"compil|autotun|warm(ing)?[- ]?up", re.I), "compiling and warming up"),
    (re.compile(r"kv cache|cache blocks", re.I), "making the KV cache"),
    (re.compile(r"startup complete|uvicorn running|server (is )?(started|ready)", re.I), "up"),
)
# A server that answers "no" three times in a row means it; a host that does not answer three times
# in a row is down, while one lost connection in an hour of loading is nothing.
PATIENCE = 3


class RankDied(EngineError):
    """A rank of the deployment is no longer running."""


class Stalled(EngineError):
    """Every rank runs and none has moved for too long."""


def wait_ready(
    step: WaitReady, launchers: Mapping[str, Launcher], deployment: str, report: Report = silent
) -> None:
    """Return when the endpoint of `step` has generated a token.

    Raises RankDied when a rank of `deployment` ends, Stalled when for `step.stall_timeout` seconds
    no rank's log, memory or disk showed anything new, EngineError when the endpoint refuses.
    """
    watch = Watch(launchers, deployment, step.stall_timeout, report)
    refusals = 0
    while True:
        answer = _ask_and_watch(step, launchers[step.host], watch)
        if answer.state == "ready":
            return
        refusals = refusals + 1 if answer.state in ("refused", "locked") else 0
        if refusals >= PATIENCE:
            hint = "check endpoint.api_key" if answer.state == "locked" else None
            raise EngineError(
                f"{step.host}: the endpoint at {step.address}:{step.port} refuses to generate: "
                f"{answer.detail}",
                hint,
            )
        watch.look(answer.detail)
        time.sleep(step.interval)


def _ask_and_watch(step: WaitReady, launcher: Launcher, watch: "Watch") -> Answer:
    """A request can hang with its engine, so the ranks are watched meanwhile."""
    answers: list[Answer] = []
    failures: list[Exception] = []

    def request() -> None:
        try:
            answers.append(ask(launcher, step.address, step.port, step.model, step.api_key))
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=request, daemon=True)
    thread.start()
    thread.join(step.interval)
    while thread.is_alive():
        watch.look("a request is on its way")
        thread.join(step.interval)
    if failures:
        raise failures[0]
    return answers[0]


class Watch:
    """Looks at all ranks again and again; knows what it has seen before."""

    def __init__(
        self,
        launchers: Mapping[str, Launcher],
        deployment: str,
        stall_timeout: float,
        report: Report = silent,
    ) -> None:
        self._launchers = launchers
        self._deployment = deployment
        self._stall_timeout = stall_timeout
        self._report = report
        self._ranks: set[int] | None = None
        self._seen: set[Hashable] = set()
        self._moved_at = time.monotonic()
        self._blind = 0
        self._phase = ""

    def look(self, detail: str = "") -> None:
        """Raise RankDied or Stalled if that is what it sees; report a phase that is new.

        Raises HostError when a host did not answer for `PATIENCE` looks in a row.
        """
        try:
            by_host = each(self._launchers, self._look_at)
        except HostError as error:
            self._blind += 1
            if self._blind >= PATIENCE:
                raise
            self._report(Event("wait", f"{error}; looking again"))
            return
        self._blind = 0
        found = [rank for ranks in by_host.values() for rank, _ in ranks]
        self._require_all(found)
        signs = {
            (rank.rank, place, sign)
            for ranks in by_host.values()
            for rank, progress in ranks
            for place, sign in enumerate(progress)
        }
        now = time.monotonic()
        if not signs <= self._seen:
            self._seen |= signs
            self._moved_at = now
        elif now - self._moved_at > self._stall_timeout:
            raise Stalled(
                f"{self._deployment}: no sign of progress for {self._stall_timeout:g} s "
                f"(log, memory, disk){': ' + detail if detail else ''}",
                "flagdeploy logs shows what it waits for; readiness.stall_timeout allows more",
            )
        self._report_phase(by_host)

    def _look_at(self, launcher: Launcher) -> list[tuple[Running, tuple[Hashable, ...]]]:
        return [
            (rank, launcher.progress(rank.id) if rank.state == "running" else ())
            for rank in launcher.running(self._deployment)
        ]

    def _require_all(self, found: list[Running]) -> None:
        dead = sorted(
            (rank for rank in found if rank.state == "exited"),
            key=lambda rank: (rank.finished_at or "~", rank.rank),
        )
        if dead:
            raise RankDied(f"rank {dead[0].rank} on {dead[0].host} ended")
        present = {rank.rank for rank in found}
        if self._ranks is None:
            self._ranks = present
        if missing := self._ranks - present:
            raise RankDied(f"rank {min(missing)} is gone: somebody removed it")

    def _report_phase(
        self, by_host: Mapping[str, list[tuple[Running, tuple[Hashable, ...]]]]
    ) -> None:
        for host, ranks in by_host.items():
            for rank, progress in ranks:
                phase = phase_of(progress[0]) if rank.rank == 0 and progress else ""
                if phase and phase != self._phase:
                    self._phase = phase
                    self._report(Event("wait", f"rank 0: {phase}", host))


def phase_of(line: Hashable) -> str:
    """The phase that a log line tells of, or an empty string."""
    text = line.decode(errors="replace") if isinstance(line, bytes) else ""
    return next((phase for pattern, phase in PHASES if pattern.search(text)), "")
