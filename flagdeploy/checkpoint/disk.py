"""Room on a disk, asked before the first byte is written."""

import shutil
from pathlib import Path

from flagdeploy.errors import CheckpointError
from flagdeploy.records.sizes import readable

# File systems need room of their own for directories and metadata: one part in so many.
_OVERHEAD = 200


def free_space(folder: Path) -> int:
    """Free bytes on the disk where `folder` is or will be."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def require_space(folder: Path, needed: int) -> None:
    """Raise CheckpointError unless `needed` bytes fit on the disk where `folder` is or will be."""
    free = free_space(folder)
    if needed + needed // _OVERHEAD > free:
        raise CheckpointError(
            f"{folder}: needs {readable(needed)}, the disk has {readable(free)} free",
            "free some space or choose a folder on another disk",
        )
