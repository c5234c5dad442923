"""What probing found out; empty for a dry run without hosts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from flagdeploy.config.launch import Running


@dataclass(frozen=True)
class Product:
    """A folder that a vendor's converter fills, as found on a host."""

    empty: bool
    """There is nothing in it, or no such folder."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """Content of its ``flagdeploy.json``, which a finished product holds."""
    source: str = ""
    """Digest of the checkpoint it would be made of now; empty when that is gone."""


@dataclass(frozen=True)
class Worktree:
    """A folder where the patched source of a component is wanted, as found on a host."""

    state: Literal["absent", "foreign", "applied", "reverted"] = "absent"
    record: Mapping[str, Any] = field(default_factory=dict)
    """What `patch apply` or `patch revert` noted: ``set``, ``digest``, ``base``, ``commit``."""
    head: str = ""
    """The commit it is at."""
    changes: tuple[str, ...] = ()
    """Files that differ from that commit, and files that git does not know, as `git status`."""
    unfinished: tuple[str, ...] = ()
    """Folders beside it that a run left which was cut off."""


@dataclass(frozen=True)
class HostFacts:
    """One host, read only, before anything is planned."""

    images: Mapping[str, str] = field(default_factory=dict)
    """Ids by reference (``name:tag`` and ``name@sha256:...``) that the host's engine holds."""
    running: tuple[Running, ...] = ()
    """Ranks and converters of this deployment on the host, in any state."""
    device_nodes: tuple[str, ...] = ()
    """Paths that the patterns of `container.devices` match."""
    ports_in_use: frozenset[int] = frozenset()
    products: Mapping[str, Product] = field(default_factory=dict)
    """By path, those of the deployment's stages."""
    patched: Worktree = Worktree()
    """At `patch.worktree`."""
    checkpoint: str = ""
    """Digest of the checkpoint that is served; empty when that was not asked, or there is none."""


@dataclass(frozen=True)
class Facts:
    hosts: Mapping[str, HostFacts] = field(default_factory=dict)
    native: Mapping[str, str] = field(default_factory=dict)
    """By key, of which image and checkpoint outputs were recorded without an operator library."""

    def native_of(self, host: str, image: str) -> str:
        """What outputs recorded now would be of; empty while the image or the checkpoint is still
        to come. A process has no image."""
        found = self.of(host)
        held = found.images.get(image, "") if image else "process"
        return f"{held} {found.checkpoint}" if held and found.checkpoint else ""

    def of(self, host: str) -> HostFacts:
        return self.hosts.get(host, HostFacts())

    @property
    def running(self) -> tuple[Running, ...]:
        """All ranks found, by rank."""
        return tuple(found for found in self._found() if not found.stage)

    @property
    def converting(self) -> tuple[Running, ...]:
        """Containers of converters, which an earlier run left."""
        return tuple(found for found in self._found() if found.stage)

    def _found(self) -> list[Running]:
        found = [rank for host in self.hosts.values() for rank in host.running]
        return sorted(found, key=lambda rank: rank.rank)
