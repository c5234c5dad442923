"""One `serve` or `stop` of a deployment at a time from this machine."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flagdeploy.errors import FlagdeployError, UsageError


@contextmanager
def deployment_lock(root: Path, name: str) -> Iterator[None]:
    """Hold the lock of deployment `name` under `root`; the kernel frees it however we end.

    Raises FlagdeployError, naming the process that holds it, instead of waiting; UsageError for a
    name that is no plain word, which would be a file elsewhere.
    """
    if name in ("", ".", "..") or "/" in name:
        raise UsageError(f"`{name}` is no name of a deployment")
    folder = root / ".locks"
    folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode() or "unknown"
            raise FlagdeployError(
                f"another flagdeploy (process {holder}) is working on {name}",
                "wait for it to end, or end it with Ctrl-C",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)
