"""Verify a checkpoint where the engine will read it, without Python on that host."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from flagdeploy.checkpoint.index import INDEX
from flagdeploy.checkpoint.ownership import require_complete
from flagdeploy.checkpoint.safetensors_file import MAX_HEADER_BYTES
from flagdeploy.checkpoint.verify import verify
from flagdeploy.errors import CheckpointError, HostError
from flagdeploy.launchers.base import Launcher

# Index, config and tokenizer of the largest models stay far below this.
SMALL = 256 << 20
SAMPLE = 4096


def verify_on_host(launcher: Launcher, path: str) -> None:
    """Every shard of `path` on the host against the index and its own header.

    A likeness of the folder is made here and verified: small JSON files whole, of a shard only its
    header, with its true length as a hole. Raises CheckpointError with everything that is wrong.
    """
    with likeness_of(launcher, path) as likeness:
        require_complete(likeness)
        verify(likeness).require()


@contextmanager
def likeness_of(launcher: Launcher, path: str) -> Iterator[Path]:
    """The likeness; errors inside the block name the host and `path` instead of it."""
    with tempfile.TemporaryDirectory(prefix="flagdeploy-") as folder:
        likeness = Path(folder)
        _copy(launcher, path, likeness)
        try:
            yield likeness
        except CheckpointError as error:
            what = str(error).replace(str(likeness), path)
            raise CheckpointError(f"{launcher.host}: {what}", error.hint) from None


@dataclass(frozen=True)
class Fingerprint:
    """Which checkpoint a folder of the host holds, and how many bytes its shards have."""

    digest: str
    nbytes: int


def fingerprint(launcher: Launcher, path: str) -> Fingerprint | None:
    """SHA-256 over config, index and, of every shard, its size and a piece from its middle.

    Two checkpoints of one architecture differ in their values alone, so names and sizes do not
    suffice; all bytes would take hours. None when there is no such folder.
    """
    try:
        names = sorted(launcher.listdir(path))
    except OSError:
        return None
    digest, total = hashlib.sha256(), 0
    for name in names:
        if name in ("config.json", INDEX):
            with launcher.open(f"{path}/{name}") as file:
                digest.update(f"{name}\n".encode() + file.read(SMALL))
        elif name.endswith(".safetensors"):
            with launcher.open(f"{path}/{name}") as file:
                size = file.seek(0, 2) or file.tell()
                file.seek(size // 2)
                digest.update(f"{name} {size}\n".encode() + file.read(SAMPLE))
            total += size
    return Fingerprint(digest.hexdigest(), total)


def _copy(launcher: Launcher, path: str, likeness: Path) -> None:
    try:
        names = launcher.listdir(path)
    except OSError as error:
        raise CheckpointError(
            f"{launcher.host}: {path}: {error.strerror or error}",
            "flagdeploy pull fetches a checkpoint, dequant converts it; it has to be at the same "
            "path on every host",
        ) from None
    for name in names:
        try:
            with launcher.open(f"{path}/{name}") as source:
                _copy_file(source, likeness / name)
        except HostError:
            raise
        except OSError:
            continue  # a folder or a link to nowhere; if the index names it, it will be missed


def _copy_file(source: BinaryIO, target: Path) -> None:
    size = source.seek(0, 2) or source.tell()
    source.seek(0)
    with target.open("wb") as file:
        if target.suffix == ".json" and size <= SMALL:
            shutil.copyfileobj(source, file, 1 << 18)
        elif target.suffix == ".safetensors":
            start = source.read(8)
            length = min(int.from_bytes(start, "little"), MAX_HEADER_BYTES)
            file.write(start + source.read(length))
        file.truncate(size)
