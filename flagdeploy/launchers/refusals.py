"""Why a host was not reached over SSH: what failed, on which host, and the remedy."""

import errno
import socket

import paramiko

from flagdeploy.errors import HostError
from flagdeploy.launchers import known_hosts
from flagdeploy.launchers.route import Route

# paramiko's words, of a plain SSHException
_NO_KEY = "No authentication methods"
_BAD_KEY = "private key"


class UnknownHostKey(paramiko.SSHException):
    """A host key that no known_hosts file has; `shown` is its type and fingerprint."""

    def __init__(self, key: paramiko.PKey) -> None:
        self.shown = f"{key.get_name()} {known_hosts.fingerprint(key.asbytes())}"
        super().__init__(f"unknown host key {self.shown}")


def is_transient(error: Exception) -> bool:
    """Worth another attempt: a connection refused or dropped before authentication.

    Not one that was waited for long enough, and never a host key or a key of ours.
    """
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_AGAIN
    permanent = (
        *(FileNotFoundError, PermissionError, IsADirectoryError, TimeoutError, UnknownHostKey),
        *(paramiko.AuthenticationException, paramiko.BadHostKeyException),
        paramiko.ssh_exception.IncompatiblePeer,
    )
    unreachable = getattr(error, "errno", None) in (errno.EHOSTUNREACH, errno.ENETUNREACH)
    ours = _NO_KEY in str(error) or _BAD_KEY in str(error)
    return not (isinstance(error, permanent) or unreachable or ours)


def explain(host: str, way: Route, error: Exception, waited_s: float) -> HostError:
    """The error for users; `waited_s` is how long a connection may take."""
    place = f"{way.address}:{way.port}"
    match error:
        case UnknownHostKey():
            name = known_hosts.entry_name(way.address, way.port)
            return HostError(
                host,
                f"its host key {error.shown} is not in any known_hosts file as {name}",
                "flagdeploy hosts trust --hosts FILE shows the keys and records them",
            )
        case paramiko.BadHostKeyException():
            return _changed(host, way, error)
        case paramiko.PasswordRequiredException():
            keys = ", ".join(way.keys) or "the private key"
            return HostError(host, f"{keys} needs a passphrase", "ssh-add loads it once")
        case paramiko.AuthenticationException():
            return _not_let_in(host, way, error)
        case socket.gaierror():
            return HostError(
                host, f"the name {way.address} is unknown", "check the hostfile and DNS"
            )
        case FileNotFoundError():
            return HostError(host, f"{error.filename}: no such key file")
        case IsADirectoryError() | PermissionError() if error.filename:
            return HostError(host, f"{error.filename}: no private key: {error.strerror}")
        case ConnectionRefusedError():
            hint = "is sshd running there, on this port?"
            return HostError(host, f"{place} refuses connections", hint)
        case TimeoutError():
            what = f"{place} did not answer within {waited_s:g} s"
            return HostError(host, what, "is the host up?")
        case _ if _NO_KEY in str(error):
            return _not_let_in(host, way, error)
        case _ if _BAD_KEY in str(error):
            keys = ", ".join(way.keys) or "~/.ssh/id_*"
            return HostError(host, f"{keys}: {error}", "name the private key, not the public one")
    return HostError(host, f"no SSH connection to {place}: {error}", "is the host up?")


def _changed(host: str, way: Route, error: paramiko.BadHostKeyException) -> HostError:
    name = known_hosts.entry_name(way.address, way.port)
    keys = (error.key, error.expected_key)
    shown, expected = (known_hosts.fingerprint(key.asbytes()) for key in keys)
    return HostError(
        host,
        f"its host key has CHANGED: known_hosts has {expected} for {name}, the host shows "
        f"{shown}. Somebody may be listening in, or the host was installed anew",
        f"only if you know why it changed: ssh-keygen -R '{name}', then flagdeploy hosts trust",
    )


def _not_let_in(host: str, way: Route, error: Exception) -> HostError:
    tried = ", ".join(way.keys) or "ssh-agent and ~/.ssh/id_*"
    return HostError(
        host,
        f"{way} does not let in the key tried ({tried}): {error}",
        f"add the public key to ~{way.user}/.ssh/authorized_keys on the host, or name another "
        "with FLAGDEPLOY_SSH_KEY or IdentityFile in ~/.ssh/config",
    )
