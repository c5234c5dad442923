"""Read from every host what a plan needs to know; nothing is changed."""

from collections.abc import Iterable, Mapping, Sequence

from flagdeploy.config.facts import Facts
from flagdeploy.launchers.base import Launcher
from flagdeploy.records.events import Event, Report, silent
from flagdeploy.workflows.fanout import each


def probe(
    launchers: Mapping[str, Launcher],
    name: str,
    *,
    devices: Sequence[str] = (),
    ports: Iterable[int] = (),
    report: Report = silent,
) -> Facts:
    """Facts of all hosts, read at once: images, ranks of deployment `name`, device nodes, ports.

    Raises HostError, or HostsFailed with the error of every host that failed.
    """
    report(Event("probe", f"looking at {len(launchers)} host(s)"))
    wanted = tuple(ports)
    return Facts(each(launchers, lambda launcher: launcher.probe(name, devices, wanted)))
