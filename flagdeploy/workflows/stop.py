"""Stop a deployment: every rank that carries its label, on every host, and nothing else."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from flagdeploy.config import workspace as workspaces
from flagdeploy.config.launch import LABEL_DEPLOYMENT, Running
from flagdeploy.launchers.base import Launcher
from flagdeploy.records.events import Event, Report, silent
from flagdeploy.records.lock import deployment_lock
from flagdeploy.workflows import places
from flagdeploy.workflows.fanout import attempt, raise_failures


@dataclass(frozen=True)
class Stopped:
    """The ranks that were stopped and removed."""

    ranks: tuple[Running, ...]

    def text(self) -> str:
        lines = [f"stopped {rank.what} on {rank.host} ({rank.name})" for rank in self.ranks]
        return "\n".join(lines or ["nothing is running"])

    def to_dict(self) -> dict[str, object]:
        ranks = [{"rank": r.rank, "host": r.host, "name": r.name} for r in self.ranks]
        return {"stopped": ranks}


def stop(
    name: str | None,
    *,
    hosts: str | None = None,
    workspace: str | None = None,
    report: Report = silent,
) -> Stopped:
    """Stop and remove the ranks of deployment `name` (of all, if None is given) on every host that
    may have any, running or not.

    That nothing runs is no error. Raises ConfigError for an unknown deployment before anything is
    touched, HostError or HostsFailed for hosts that do not answer, after the others were stopped;
    FlagdeployError while another command works on the deployment.
    """
    root = workspaces.find(workspace)
    found = places.places(name, root, hosts)
    with ExitStack() as stack:
        if name:
            stack.enter_context(deployment_lock(workspaces.state_folder(root), name))
        launchers = stack.enter_context(places.open_places(found, root))
        return stop_ranks(launchers, name, report)


def stop_ranks(
    launchers: Mapping[str, Launcher], name: str | None, report: Report = silent
) -> Stopped:
    """`stop` on hosts already open."""

    def on_host(launcher: Launcher) -> tuple[Running, ...]:
        ranks = launcher.running(name)
        for rank in ranks:
            what = f"stopping {rank.what} of {rank.labels[LABEL_DEPLOYMENT]}"
            report(Event("stop", what, rank.host))
            launcher.stop(rank.id)
        return ranks

    done, failures = attempt(launchers, on_host)
    raise_failures(failures)
    return Stopped(tuple(rank for ranks in done.values() for rank in ranks))
