"""A command on a host that lives no longer than somebody attends to it."""

import shlex
import threading
import time
from collections.abc import Callable, Sequence

import paramiko

from flagdeploy.errors import HostError
from flagdeploy.launchers.base import Result
from flagdeploy.launchers.connection import Connection

# Ends the command by its pid when standard input does: when we stop, die or lose the connection.
# `cat` reads the input because the command, in the background, has none.
_GUARD = """
exec 3<&0 </dev/null
"$@" 3<&- &
command=$!
( cat <&3 >/dev/null 2>&1; kill -TERM $command ) >/dev/null 2>&1 &
guard=$!
wait $command
code=$?
kill $guard 2>/dev/null
exit $code
"""
# How long a command may take to end by itself after it was told to.
_GRACE_S = 30.0
_POLL_S = 0.05


def attend(
    connection: Connection,
    argv: Sequence[str],
    tell: Callable[[str], None],
    stop: threading.Event,
) -> Result:
    """Run a command to its end, however long it takes; `tell` gets each line of its stderr.

    When `stop` is set the command gets SIGTERM. Raises HostError when the connection is lost, or
    when the command does not end after that; in both cases its input has ended, and so does it.
    """
    command = shlex.join(["sh", "-c", _GUARD, "sh", *argv])
    what = shlex.join(argv)
    try:
        with connection.transport.open_session() as channel:
            channel.exec_command(command)
            return _follow(channel, tell, stop)
    except (paramiko.SSHException, EOFError, OSError) as error:
        message = f"`{what}`: {error or 'the connection was lost'}"
        raise HostError(connection.name, message, "is the host still up?") from None


def _follow(
    channel: paramiko.Channel, tell: Callable[[str], None], stop: threading.Event
) -> Result:
    out, err, told = bytearray(), bytearray(), 0
    deadline: float | None = None
    while True:
        ended = channel.exit_status_ready() and channel.eof_received
        moved = False
        while channel.recv_ready():
            out += channel.recv(1 << 16)
            moved = True
        while channel.recv_stderr_ready():
            err += channel.recv_stderr(1 << 16)
            moved = True
        while (end := err.find(b"\n", told)) >= 0:
            tell(err[told:end].decode(errors="replace"))
            told = end + 1
        if ended and not moved:
            return Result(channel.recv_exit_status(), bytes(out), bytes(err))
        if channel.closed and not channel.exit_status_ready():
            raise EOFError("the connection was lost")
        if stop.is_set() and deadline is None:
            channel.shutdown_write()
            deadline = time.monotonic() + _GRACE_S
        if deadline is not None and time.monotonic() > deadline:
            raise EOFError(f"did not end within {_GRACE_S:g} s of SIGTERM")
        if not moved:
            time.sleep(_POLL_S)
