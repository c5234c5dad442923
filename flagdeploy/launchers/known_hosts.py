"""Host keys: which files are believed, how a key is shown, how one is added."""

import base64
import contextlib
import hashlib
import logging
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import paramiko

from flagdeploy.config.launch import Host
from flagdeploy.errors import HostError

# paramiko logs what it also raises; without a handler Python would print it.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

SYSTEM_FILES = (Path("~/.ssh/known_hosts"), Path("/etc/ssh/ssh_known_hosts"))
# One file for all types would have to be asked for; these are the types that sshd makes.
KEY_TYPES = ("ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512")


@dataclass(frozen=True)
class HostKey:
    """One key that a host showed; `name` is how known_hosts writes the host (sshd(8))."""

    host: Host
    name: str
    type: str
    base64: str

    @property
    def fingerprint(self) -> str:
        """As OpenSSH prints it: ``SHA256:`` and unpadded base64 (ssh-keygen(1), -l)."""
        return fingerprint(base64.b64decode(self.base64))

    def __str__(self) -> str:
        return f"{self.name} {self.type} {self.base64}"


def fingerprint(key: bytes) -> str:
    digest = base64.b64encode(hashlib.sha256(key).digest()).decode()
    return "SHA256:" + digest.rstrip("=")


def entry_name(address: str, port: int) -> str:
    """How known_hosts writes a host: the port is part of the name unless it is 22."""
    return address if port == 22 else f"[{address}]:{port}"


def override() -> Path | None:
    """The file that $FLAGDEPLOY_KNOWN_HOSTS names, in place of the workspace's."""
    path = os.environ.get("FLAGDEPLOY_KNOWN_HOSTS")
    return Path(path).expanduser() if path else None


def load(client: paramiko.SSHClient, files: list[Path]) -> None:
    """Believe the system's known_hosts and `files`, read-only."""
    for path in [*SYSTEM_FILES, *files]:
        if path.expanduser().is_file():
            client.load_system_host_keys(str(path.expanduser()))


def fetch(host: Host, address: str, port: int, timeout: float = 10) -> list[HostKey]:
    """Ask `host` for its keys, one type after the other, as ssh-keyscan does; nothing is believed.

    Raises HostError when it cannot be reached or shows none of `KEY_TYPES`.
    """
    keys = []
    for key_type in KEY_TYPES:
        try:
            sock = socket.create_connection((address, port), timeout)
        except OSError as error:
            raise HostError(str(host), f"no connection to {address}:{port}: {error}") from None
        with contextlib.closing(paramiko.Transport(sock)) as transport:
            transport.get_security_options().key_types = (key_type,)
            began = time.monotonic()
            try:
                transport.start_client(timeout=timeout)  # returns when the time is over, too
                key = transport.get_remote_server_key()
            except (paramiko.SSHException, EOFError):
                if time.monotonic() - began < timeout:
                    continue
                what = f"{address}:{port} did not answer within {timeout:g} s"
                raise HostError(str(host), what, "does sshd run there?") from None
            keys.append(HostKey(host, entry_name(address, port), key.get_name(), key.get_base64()))
    if not keys:
        raise HostError(
            str(host), f"{address}:{port} shows no SSH host key", "does sshd run there?"
        )
    return keys


def known(path: Path) -> paramiko.HostKeys:
    keys = paramiko.HostKeys()
    if path.is_file():
        keys.load(str(path))
    return keys


def add(path: Path, keys: list[HostKey]) -> None:
    """Append keys to a known_hosts file (mode 0644) in one write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(f"{key}\n" for key in keys))
        file.flush()
        os.fsync(file.fileno())
