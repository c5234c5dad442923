"""pull --image: the same container image on every host."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flagdeploy.config import workspace as workspaces
from flagdeploy.errors import FlagdeployError, UsageError
from flagdeploy.launchers.base import Launcher
from flagdeploy.records.events import Report, silent
from flagdeploy.workflows import places
from flagdeploy.workflows.fanout import each


@dataclass(frozen=True)
class PulledImage:
    """An image that all hosts hold; `id` is the digest of its configuration."""

    image: str
    id: str
    hosts: tuple[str, ...]

    def text(self) -> str:
        return f"{self.image} ({self.id}) is on {', '.join(self.hosts)}"

    def to_dict(self) -> dict[str, Any]:
        return {"image": self.image, "id": self.id, "hosts": list(self.hosts)}


def pull_image(
    image: str,
    name: str | None = None,
    *,
    hosts: str | None = None,
    workspace: str | None = None,
    report: Report = silent,
) -> PulledImage:
    """Pull `image` on all hosts of the inventory `hosts`, or of deployment `name`, at once.

    Raises UsageError without hosts, HostError or HostsFailed where a pull fails, FlagdeployError
    when the hosts end up with different images under one tag.
    """
    root = workspaces.find(workspace)
    with places.launchers(name, root, hosts) as launchers:
        return pull_on(launchers, image, report)


def pull_on(launchers: Mapping[str, Launcher], image: str, report: Report = silent) -> PulledImage:
    """`pull_image` on hosts already open."""
    if not launchers:
        raise UsageError(f"on which hosts shall {image} be?", "--hosts FILE, or a deployment")
    ids = each(launchers, lambda launcher: launcher.pull(image, report))
    if len(set(ids.values())) > 1:
        lines = [f"{host}: {found}" for host, found in ids.items()]
        raise FlagdeployError(
            "\n".join([f"{image} is not the same image on every host:", *lines]),
            "the tag moved meanwhile: pull again, or name the image by its digest",
        )
    return PulledImage(image, next(iter(ids.values())), tuple(ids))
