"""Where and as whom to connect: the inventory joined with the user's own SSH configuration."""

import getpass
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

import paramiko

from flagdeploy.config.launch import Host
from flagdeploy.errors import HostError


@dataclass(frozen=True)
class Route:
    """Where and as whom to connect: the inventory's line joined with ``~/.ssh/config``."""

    address: str
    port: int
    user: str
    keys: tuple[str, ...]
    agent: bool
    jump: str | None
    known_hosts: tuple[Path, ...]

    def __str__(self) -> str:
        return f"{self.user}@{self.address}:{self.port}"


def route(host: Host) -> Route:
    """What the inventory says wins over ``~/.ssh/config``; $FLAGDEPLOY_SSH_KEY over both.

    Raises HostError when that file cannot be understood.
    """
    path = Path("~/.ssh/config").expanduser()
    try:
        config = paramiko.SSHConfig.from_path(str(path)) if path.is_file() else paramiko.SSHConfig()
    except (paramiko.ConfigParseError, OSError, ValueError) as error:
        raise HostError(str(host), f"{path}: {error}") from None
    entry = config.lookup(host.address)
    key = os.environ.get("FLAGDEPLOY_SSH_KEY")
    keys = [key] if key else [k for k in entry.get("identityfile", []) if Path(k).is_file()]
    files = shlex.split(entry.get("userknownhostsfile", ""))
    return Route(
        address=entry["hostname"],
        port=host.port if host.port != 22 else port_number(host, entry.get("port", "22")),
        user=host.user or entry.get("user") or _own_name(host),
        keys=tuple(str(Path(k).expanduser()) for k in keys),
        agent=not key and entry.get("identitiesonly", "no") != "yes",
        jump=None if entry.get("proxyjump", "none") == "none" else entry["proxyjump"],
        known_hosts=tuple(Path(file).expanduser() for file in files),
    )


def port_number(host: Host, text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise HostError(str(host), f"~/.ssh/config: `{text}` is no port")
    return int(text)


def _own_name(host: Host) -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # OSError since Python 3.13
        hint = "write user=NAME in the hostfile"
        raise HostError(str(host), "this account has no name to log in with", hint) from None
