"""Stop a deployment: every rank that carries its label, on every host, and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass

from flagdeploy.config.launch import LABEL_DEPLOYMENT, Running
from flagdeploy.launchers.base import Launcher
from flagdeploy.records.events import Event, Report, silent
from flagdeploy.workflows.fanout import attempt, raise_failures


@dataclass(frozen=True)
class Stopped:
    """The ranks that were stopped and removed."""

    ranks: tuple[Running, ...]

    def text(self) -> str:
        if not self.ranks:
            return "nothing is running"
        return "\n".join(
            f"stopped rank {rank.rank} on {rank.host} ({rank.name})" for rank in self.ranks
        )

    def to_dict(self) -> dict[str, object]:
        ranks = [{"rank": r.rank, "host": r.host, "name": r.name} for r in self.ranks]
        return {"stopped": ranks}


def stop(
    launchers: Mapping[str, Launcher],
    name: str | None = None,
    *,
    timeout: int = 30,
    report: Report = silent,
) -> Stopped:
    """Stop and remove the ranks of deployment `name` (of all: None), running or not.

    A rank gets `timeout` seconds between SIGTERM and SIGKILL. That nothing runs is no error.
    Raises HostError or HostsFailed for hosts that do not answer, after the others were stopped.
    """

    def on_host(launcher: Launcher) -> tuple[Running, ...]:
        ranks = launcher.running(name)
        for rank in ranks:
            what = f"stopping rank {rank.rank} of {rank.labels[LABEL_DEPLOYMENT]}"
            report(Event("stop", what, rank.host))
            launcher.stop(rank.id, timeout)
        return ranks

    done, failures = attempt(launchers, on_host)
    raise_failures(failures)
    return Stopped(tuple(rank for ranks in done.values() for rank in ranks))
