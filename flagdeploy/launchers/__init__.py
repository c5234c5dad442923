"""Ways to run ranks on hosts: containers over SSH, or processes of this machine."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from flagdeploy.config.launch import Host
from flagdeploy.launchers.base import Launcher


@contextmanager
def open_launchers(
    kind: str, hosts: Iterable[Host], *, known_hosts: Path | None = None, state: Path
) -> Iterator[Mapping[str, Launcher]]:
    """A launcher of `kind` (``ssh`` or ``local``) for every host, by the host's address.

    Nothing is connected before it is used. `known_hosts` is a file of host keys beside the
    user's own; `state` is the folder in which the local launcher remembers its processes.
    """
    launchers = {str(host): _launcher(kind, host, known_hosts, state) for host in hosts}
    try:
        yield launchers
    finally:
        for launcher in launchers.values():
            launcher.close()


def _launcher(kind: str, host: Host, known_hosts: Path | None, state: Path) -> Launcher:
    if kind == "local":
        from flagdeploy.launchers.local import LocalLauncher

        return LocalLauncher(host, state)
    from flagdeploy.launchers.ssh import SshLauncher

    return SshLauncher(host, known_hosts)
