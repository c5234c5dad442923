"""Files of our own records: whole or absent after a crash, readable by their owner only."""

import os
import secrets
from collections.abc import Iterable
from pathlib import Path


def write_private(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Replace `path` atomically and durably, mode 0600; the pieces of `content` one by one."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines([content] if isinstance(content, bytes) else content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def append_private(path: Path, content: bytes) -> None:
    """Append in one write; a crash can cut the last piece short, never an earlier one."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
