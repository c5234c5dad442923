"""A checkpoint without its weights: headers, index and config, enough to plan a conversion again.

A shard is its header and a hole of the size of the data, so the file system must know holes.
"""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from flagdeploy.checkpoint.folder import PART, explained
from flagdeploy.checkpoint.safetensors_file import read_header
from flagdeploy.errors import CheckpointError
from flagdeploy.records.files import sync_folder

# Room for allocation units; a data region that took its real size would be far above.
_SLACK = 1 << 20


def keep_likeness(source: Path, shards: Iterable[str], others: Iterable[str], folder: Path) -> None:
    """Make `folder` a likeness of `source`, durably and all at once, and change nothing when it is
    there; `others` are files that are copied whole. Sizes and modification times are those of the
    source. Raises CheckpointError when the disk is full or has no holes."""
    if folder.is_dir():
        return
    begun = folder.with_name(folder.name + PART)
    with explained(f"cannot write {folder}"):
        shutil.rmtree(begun, ignore_errors=True)
        begun.mkdir(parents=True)
        for name in shards:
            _keep_header(source / name, begun / name)
        for name in others:
            if (source / name).is_file():
                (begun / name).write_bytes((source / name).read_bytes())
                _finish(source / name, begun / name)
        for place in {path.parent for path in begun.rglob("*")}:
            sync_folder(place)
        begun.replace(folder)
        sync_folder(folder.parent)


def _keep_header(source: Path, target: Path) -> None:
    length = read_header(source).data_start
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as reader, target.open("wb") as writer:
        writer.write(reader.read(length))
        writer.truncate(source.stat().st_size)
    _finish(source, target)
    if target.stat().st_blocks * 512 > length + _SLACK:
        raise CheckpointError(
            f"{target}: this file system has no sparse files", "convert to a folder of its own"
        )


def _finish(source: Path, target: Path) -> None:
    status = source.stat()
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    with target.open("rb") as file:
        os.fsync(file.fileno())
