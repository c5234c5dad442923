"""What probing found out; empty for a dry run without hosts."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from flagdeploy.config.launch import Running


@dataclass(frozen=True)
class HostFacts:
    """One host, read only, before anything is planned."""

    images: frozenset[str] = frozenset()
    """References (``name:tag`` and ``name@sha256:...``) that the host's engine holds."""
    running: tuple[Running, ...] = ()
    """Ranks of this deployment on the host, in any state."""
    device_nodes: tuple[str, ...] = ()
    """Paths that the patterns of `container.devices` match."""
    ports_in_use: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Facts:
    hosts: Mapping[str, HostFacts] = field(default_factory=dict)

    def of(self, host: str) -> HostFacts:
        return self.hosts.get(host, HostFacts())

    @property
    def running(self) -> tuple[Running, ...]:
        """All ranks found, by rank."""
        found = [rank for host in self.hosts.values() for rank in host.running]
        return tuple(sorted(found, key=lambda rank: rank.rank))
