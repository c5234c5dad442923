"""The ranks that one run started: they live together and, when one fails, end together."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from flagdeploy.config.launch import LABEL_RUN, Running
from flagdeploy.errors import EngineError, FlagdeployError
from flagdeploy.launchers.base import Launcher
from flagdeploy.records.events import Event, Report
from flagdeploy.records.run import Run
from flagdeploy.workflows.diagnose import CONSEQUENCES, Diagnosis, diagnose
from flagdeploy.workflows.fanout import attempt

LOG_LINES = 2000
SHOWN_LINES = 15
# A create and start under way when the run is given up; no more is waited for.
START_GRACE_S = 30.0


@dataclass(frozen=True)
class Evidence:
    """What is known of one rank at the moment of failure."""

    rank: Running
    log: str

    @property
    def failed(self) -> bool:
        return self.rank.state == "exited"


class Group:
    """Knows on which hosts this run has started ranks; finds the ranks themselves by label."""

    def __init__(
        self, deployment: str, launchers: Mapping[str, Launcher], run: Run, report: Report
    ) -> None:
        self._deployment = deployment
        self._launchers = launchers
        self._run = run
        self._report = report
        self._hosts: set[str] = set()
        self._in_flight = 0
        self._changed = threading.Condition()

    @contextmanager
    def starting(self, host: str) -> Iterator[None]:
        """Around the start of a rank: a group that is given up waits for what is in flight."""
        with self._changed:
            self._hosts.add(host)
            self._in_flight += 1
        try:
            yield
        finally:
            with self._changed:
                self._in_flight -= 1
                self._changed.notify_all()

    def failed(self, error: FlagdeployError) -> FlagdeployError:
        """Keep the logs, stop what was started, and say what happened: the error to raise."""
        if not self._hosts and not isinstance(error, EngineError):
            return error
        evidence = self._collect()
        left = self.stop()
        first = first_failure(evidence)
        # When a host fails, its own words are the cause; its ranks ended because of it.
        if first and isinstance(error, EngineError):
            error = self._explained(first)
        return _with_leftovers(error, left)

    def give_up(self) -> None:
        """After Ctrl-C: stop what was started. A second Ctrl-C leaves the rest, and says what."""
        if not self._hosts:
            return
        self._report(Event("stop", "interrupted: stopping what this run started"))
        try:
            left = self.stop()
        except KeyboardInterrupt:
            left = dict.fromkeys(sorted(self._hosts), "not waited for")
        for host, why in left.items():
            what = f"may still run ({why}): flagdeploy stop {self._deployment}"
            self._report(Event("stop", what, host))

    def stop(self) -> dict[str, str]:
        """Stop and remove every rank of this run; returns hosts that failed, and why."""
        with self._changed:
            self._changed.wait_for(lambda: self._in_flight == 0, START_GRACE_S)
        _, failures = attempt(self._mine(), self._stop_on)
        return {host: str(error) for host, error in failures.items()}

    def _mine(self) -> dict[str, Launcher]:
        return {host: self._launchers[host] for host in sorted(self._hosts)}

    def _ranks(self, launcher: Launcher) -> list[Running]:
        found = launcher.running(self._deployment)
        return [rank for rank in found if rank.labels.get(LABEL_RUN) == self._run.id]

    def _stop_on(self, launcher: Launcher) -> None:
        for rank in self._ranks(launcher):
            self._report(Event("stop", f"stopping {rank.what}", rank.host))
            launcher.stop(rank.id)

    def _collect(self) -> list[Evidence]:
        """State and log of every rank that can still be reached; the logs are kept."""

        def look(launcher: Launcher) -> list[Evidence]:
            ranks = launcher.running(self._deployment)
            return [Evidence(rank, log_of(launcher, rank)) for rank in ranks]

        found, _ = attempt(self._launchers, look)
        evidence = [piece for pieces in found.values() for piece in pieces]
        for piece in evidence:
            self._run.log(piece.rank.rank, piece.log)
        return evidence

    def _explained(self, first: Evidence) -> EngineError:
        found = diagnosis_of(first)
        lines = [describe(first.rank, found)]
        if found.line:
            lines.append(f"  {found.line}")
        tail = [line for line in first.log.splitlines() if line.strip()][-SHOWN_LINES:]
        lines += [f"last lines of rank {first.rank.rank}:", *(f"  | {line}" for line in tail)]
        if self._hosts:
            lines.append("every rank was stopped again")
        lines.append(f"the logs of all ranks are in {self._run.folder / 'logs'}")
        return EngineError(self._run.mask("\n".join(lines)), found.remedy or None)


def first_failure(evidence: list[Evidence]) -> Evidence | None:
    """The rank with the cause: the first that ended, except that one which only tells of lost
    peers comes after those that tell more. Clocks of hosts differ; what they say does not.
    """

    def order(piece: Evidence) -> tuple[bool, bool, str, int]:
        rank = piece.rank
        lost_peers = diagnosis_of(piece).cause in CONSEQUENCES
        return rank.exit_code == 0, lost_peers, rank.finished_at, rank.rank

    return min((piece for piece in evidence if piece.failed), key=order, default=None)


def log_of(launcher: Launcher, rank: Running, lines: int = LOG_LINES) -> str:
    return b"".join(launcher.logs(rank.id, tail=lines)).decode(errors="replace")


def diagnosis_of(piece: Evidence) -> Diagnosis:
    return diagnose(piece.log, piece.rank.exit_code, piece.rank.oom_killed)


def describe(rank: Running, found: Diagnosis) -> str:
    code = "unknown" if rank.exit_code is None else rank.exit_code
    return f"rank {rank.rank} on {rank.host} failed (exit code {code}): {found.cause}"


def _with_leftovers(error: FlagdeployError, left: Mapping[str, str]) -> FlagdeployError:
    """The same error; when ranks could not be stopped, it says where."""
    if left:
        lines = [f"could not be stopped on {host}: {why}" for host, why in left.items()]
        error.args = ("\n".join([str(error), *lines]),)
    return error
