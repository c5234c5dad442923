"""The ranks that one run started: they live together and, when one fails, end together."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from flagdeploy.config.launch import LABEL_RUN, Running
from flagdeploy.errors import EngineError, FlagdeployError, HostError
from flagdeploy.launchers.base import Launcher
from flagdeploy.records.events import Event, Report
from flagdeploy.records.run import Run
from flagdeploy.workflows.diagnose import Diagnosis, diagnose
from flagdeploy.workflows.fanout import attempt

LOG_LINES = 2000
SHOWN_LINES = 15
# A create and start under way when the run is given up; no more is waited for.
START_GRACE_S = 30.0
STOP_TIMEOUT_S = 30


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
    def starting(self, host: str, rank: int) -> Iterator[None]:
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
        if not self._hosts:
            return error
        evidence = self._collect()
        left = self.stop()
        if isinstance(error, HostError):
            # The host's own words are the cause; the ranks ended because of it.
            return _with_leftovers(error, left)
        return self._explained(error, evidence, left)

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
            self._report(Event("stop", f"stopping rank {rank.rank}", rank.host))
            launcher.stop(rank.id, STOP_TIMEOUT_S)

    def _collect(self) -> list[Evidence]:
        """State and log of every rank of this run that can still be reached; logs are kept."""

        def look(launcher: Launcher) -> list[Evidence]:
            return [Evidence(rank, log_of(launcher, rank)) for rank in self._ranks(launcher)]

        found, _ = attempt(self._mine(), look)
        evidence = [piece for pieces in found.values() for piece in pieces]
        for piece in evidence:
            self._run.log(piece.rank.rank, piece.log)
        return evidence

    def _explained(
        self, error: FlagdeployError, evidence: list[Evidence], left: dict[str, str]
    ) -> FlagdeployError:
        first = first_failure(evidence)
        if first is None:
            return _with_leftovers(EngineError(str(error), error.hint), left)
        found = diagnosis_of(first)
        lines = [describe(first.rank, found)]
        if found.line:
            lines.append(f"  {found.line}")
        tail = [line for line in first.log.splitlines() if line.strip()][-SHOWN_LINES:]
        lines += [f"last lines of rank {first.rank.rank}:", *(f"  | {line}" for line in tail)]
        lines.append(f"every rank was stopped; their logs are in {self._run.folder / 'logs'}")
        message = self._run.mask("\n".join(lines))
        return _with_leftovers(EngineError(message, found.remedy or None), left)


def first_failure(evidence: list[Evidence]) -> Evidence | None:
    """The rank that ended first: it has the cause, the others mostly tell of lost peers.

    A rank that was killed by a signal of ours or ended well comes after one that failed.
    """
    dead = [piece for piece in evidence if piece.failed]
    order = sorted(dead, key=lambda p: (p.rank.exit_code == 0, p.rank.finished_at, p.rank.rank))
    return order[0] if order else None


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
