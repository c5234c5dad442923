"""What runs where, and does it answer: from the labels on the hosts and one generated token."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Literal
from urllib.parse import urlsplit

from flagdeploy.config import workspace as workspaces
from flagdeploy.config.launch import (
    LABEL_DEPLOYMENT,
    LABEL_ENDPOINT,
    LABEL_MODEL,
    LABEL_RANKS,
    Running,
)
from flagdeploy.config.secret import Secret
from flagdeploy.launchers.base import Launcher
from flagdeploy.workflows import places
from flagdeploy.workflows.diagnose import Diagnosis, diagnose
from flagdeploy.workflows.endpoint import Answer, ask
from flagdeploy.workflows.fanout import attempt
from flagdeploy.workflows.group import log_of

ANSWER_TIMEOUT_S = 30.0

State = Literal["ready", "starting", "converting", "degraded", "failed", "unreachable"]


@dataclass(frozen=True)
class RankStatus:
    rank: int
    host: str
    name: str
    state: str
    since: str
    """When it reached this state (RFC 3339, the host's clock)."""
    exit_code: int | None = None
    diagnosis: Diagnosis | None = None
    stage: str = ""
    """The stage whose converter this is; empty for a rank."""


@dataclass(frozen=True)
class DeploymentStatus:
    """One deployment. ``converting``: a stage before the ranks runs. ``starting``: all ranks run,
    no token yet. ``degraded``: some ranks are dead or missing. ``failed``: none runs.
    ``unreachable``: a host with ranks does not answer."""

    name: str
    state: State
    endpoint: str
    detail: str
    ranks: tuple[RankStatus, ...]


@dataclass(frozen=True)
class Status:
    """All deployments found; `unreachable` holds the hosts that could not be asked, and why."""

    deployments: tuple[DeploymentStatus, ...]
    unreachable: Mapping[str, str]

    @property
    def healthy(self) -> bool:
        return not self.unreachable and all(d.state == "ready" for d in self.deployments)

    def text(self) -> str:
        lines = [line for found in self.deployments for line in _lines(found)]
        lines += [f"unreachable: {why}" for why in self.unreachable.values()]
        return "\n".join(lines or ["nothing is running"])

    def to_dict(self) -> dict[str, Any]:
        return {
            "deployments": [asdict(found) for found in self.deployments],
            "unreachable": dict(self.unreachable),
        }


def status(
    name: str | None = None, *, hosts: str | None = None, workspace: str | None = None
) -> Status:
    """Look at every host on which ranks of `name` (of anything: None) may run; change nothing.

    A host that does not answer is named, not raised. Raises ConfigError for an unknown deployment.
    """
    root = workspaces.find(workspace)
    keys = {
        key: Secret(value, place.api_key)
        for key, place in places.recorded(name, root).items()
        if (value := os.environ.get(place.api_key))
    }
    with places.launchers(name, root, hosts) as launchers:
        return status_of(launchers, name, keys)


def status_of(
    launchers: Mapping[str, Launcher],
    name: str | None = None,
    api_keys: Mapping[str, Secret] = MappingProxyType({}),
) -> Status:
    """`status` on hosts already open; `api_keys` of endpoints by deployment."""
    found, failures = attempt(launchers, lambda launcher: launcher.running(name))
    groups: dict[str, list[Running]] = {}
    for ranks in found.values():
        for rank in ranks:
            groups.setdefault(rank.labels[LABEL_DEPLOYMENT], []).append(rank)
    unreachable = {host: str(error) for host, error in failures.items()}
    deployments = tuple(
        _deployment(key, groups[key], launchers, api_keys.get(key), unreachable)
        for key in sorted(groups)
    )
    return Status(deployments, unreachable)


def _deployment(
    name: str,
    ranks: list[Running],
    launchers: Mapping[str, Launcher],
    api_key: Secret | None,
    unreachable: Mapping[str, str],
) -> DeploymentStatus:
    ranks = sorted(ranks, key=lambda rank: (bool(rank.stage), rank.rank))
    statuses = tuple(_rank(rank, launchers[rank.host]) for rank in ranks)
    labels = ranks[0].labels
    if ranks[0].stage:
        runs = any(rank.state == "running" for rank in ranks)
        detail = f"{ranks[0].what} {'runs' if runs else 'has ended'}"
        return DeploymentStatus(name, "converting" if runs else "failed", "", detail, statuses)
    ranks = [rank for rank in ranks if not rank.stage]
    expected = int(labels.get(LABEL_RANKS, len(ranks)))
    alive = [rank for rank in ranks if rank.state == "running"]
    state: State
    if len(alive) == expected:
        answer = _ask(ranks[0], launchers, api_key)
        state = "ready" if answer.state in ("ready", "locked") else "starting"
        detail = answer.detail
    else:
        dead = ", ".join(str(rank.rank) for rank in ranks if rank.state != "running")
        missing = expected - len(ranks)
        parts = [f"rank {dead} is dead" if dead else "", f"{missing} missing" if missing else ""]
        detail = f"{len(alive)} of {expected} ranks run: {', '.join(p for p in parts if p)}"
        state = "degraded" if alive else "unreachable" if unreachable else "failed"
    return DeploymentStatus(name, state, labels.get(LABEL_ENDPOINT, ""), detail, statuses)


def _ask(rank: Running, launchers: Mapping[str, Launcher], api_key: Secret | None) -> Answer:
    url = urlsplit(rank.labels[LABEL_ENDPOINT])
    model = rank.labels[LABEL_MODEL]
    launcher = launchers[rank.host]
    return ask(launcher, url.hostname or "", url.port or 80, model, api_key, ANSWER_TIMEOUT_S)


def _rank(rank: Running, launcher: Launcher) -> RankStatus:
    since = rank.finished_at or rank.started_at
    found = None
    if rank.state == "exited":
        found = diagnose(log_of(launcher, rank), rank.exit_code, rank.oom_killed)
    return RankStatus(
        rank.rank, rank.host, rank.name, rank.state, since, rank.exit_code, found, rank.stage
    )


def _lines(found: DeploymentStatus) -> list[str]:
    detail = f": {found.detail}" if found.detail and found.state != "ready" else ""
    lines = [f"{found.name}: {found.state}{detail}"]
    lines += [f"  endpoint {found.endpoint}"] if found.endpoint else []
    for rank in found.ranks:
        what = rank.stage or f"rank {rank.rank}"
        line = f"  {what}  {rank.host}  {rank.state}"
        if rank.exit_code is not None:
            line += f" (exit code {rank.exit_code})"
        # Seconds do: Docker writes nanoseconds. All times are UTC.
        lines.append(f"{line}  since {rank.since[:19]}Z")
        if rank.diagnosis:
            what = f"{rank.diagnosis.cause}: {rank.diagnosis.line}".rstrip(": ")
            lines.append(f"          {what}")
    return lines
