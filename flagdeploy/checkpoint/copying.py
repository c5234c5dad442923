"""Copy files of a checkpoint: whole or not at all, and only when they differ."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from flagdeploy.checkpoint.folder import PART, publish

_CHUNK = 4 << 20


def unchanged(source: Path, target: Path) -> bool:
    """True when `target` has the size and modification time that `copy_file` gave it."""
    if not target.is_file():
        return False
    ours, theirs = target.stat(), source.stat()
    return (ours.st_size, ours.st_mtime_ns) == (theirs.st_size, theirs.st_mtime_ns)


def copy_file(
    source: Path, target: Path, progress: Callable[[int], None] = lambda count: None
) -> str:
    """Copy content and modification time, through ``NAME.part``; returns the content's SHA-256.

    `progress` gets the number of bytes just copied. Raises OSError.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + PART)
    digest = hashlib.sha256()
    with source.open("rb") as reader, part.open("wb") as writer:
        status = os.fstat(reader.fileno())
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
            writer.write(chunk)
            progress(len(chunk))
        writer.flush()
        os.utime(writer.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
        os.fsync(writer.fileno())
    publish(part, target)
    return digest.hexdigest()
