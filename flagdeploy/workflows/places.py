"""Where ranks of a deployment may run: which hosts to ask when a command names only a deployment.

The truth is on the hosts, as labels. What runs recorded is only a cache that says where to look.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from flagdeploy.config import hostfile, workspace
from flagdeploy.config.launch import Host
from flagdeploy.config.load import Loaded, load
from flagdeploy.config.secret import Secret
from flagdeploy.launchers import open_launchers
from flagdeploy.launchers.base import Launcher
from flagdeploy.records.run import Run, runs

RECORD = "places.json"


@dataclass(frozen=True)
class Place:
    """Hosts of one launcher, and the variable that holds the endpoint's key."""

    launcher: str
    hosts: tuple[Host, ...]
    api_key: str = ""


def of(loaded: Loaded) -> Place:
    """Where `serve` puts a deployment."""
    key = loaded.deployment.endpoint.api_key
    name = key.name if isinstance(key, Secret) else ""
    return Place(loaded.deployment.launcher, loaded.hosts, name)


def record(run: Run, place: Place) -> None:
    run.write_json(RECORD, asdict(place))


def recorded(name: str | None, root: Path) -> dict[str, Place]:
    """Where the latest run of deployment `name` (of each deployment: None) put it."""
    found = {}
    for folder in runs(workspace.state_folder(root), name):
        path = folder / RECORD
        if path.exists():
            data = json.loads(path.read_text())
            hosts = tuple(Host(**host) for host in data["hosts"])
            deployment = folder.name.split("-", 1)[1].rpartition("-")[0]
            found[deployment] = Place(data["launcher"], hosts, data["api_key"])
    return found


def places(name: str | None, root: Path, hosts: str | None = None) -> list[Place]:
    """`--hosts` wins; else what was recorded; else what the deployment's configuration says.

    Raises ConfigError for an unknown deployment or an inventory that cannot be read.
    """
    if hosts:
        return [Place("ssh", hostfile.read(Path(hosts)))]
    found = list(recorded(name, root).values())
    if not found and name:
        found = [of(load(name, root=root))]
    return found


@contextmanager
def launchers(
    name: str | None, root: Path, hosts: str | None = None
) -> Iterator[Mapping[str, Launcher]]:
    """A launcher for every host on which ranks of `name` (of anything: None) may run."""
    with open_places(places(name, root, hosts), root) as opened:
        yield opened


@contextmanager
def open_places(found: Iterable[Place], root: Path) -> Iterator[Mapping[str, Launcher]]:
    """Launchers by host address; nothing is connected before it is used."""
    state = workspace.state_folder(root) / "local"
    hosts: dict[str, dict[str, Host]] = {}
    for place in found:
        hosts.setdefault(place.launcher, {}).update({str(host): host for host in place.hosts})
    with ExitStack() as stack:
        opened: dict[str, Launcher] = {}
        for kind, by_address in hosts.items():
            known = known_hosts_file(root)
            context = open_launchers(kind, by_address.values(), known_hosts=known, state=state)
            opened.update(stack.enter_context(context))
        yield opened


def known_hosts_file(root: Path) -> Path:
    """Host keys that `flagdeploy hosts trust` recorded for this workspace."""
    return workspace.writable_folder(root) / "hostfiles" / "known_hosts"
