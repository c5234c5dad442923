"""How fast is a conversion going to be? A few tiles of it, read and converted, written nowhere."""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from flagdeploy.checkpoint.jobs import Copy, Extent, ShardJob
from flagdeploy.checkpoint.shard import OpenShard, Scratch

# Tiles of one tensor: enough for the kernel's read-ahead to begin.
_TILES = 8
_SECONDS = 0.3


@dataclass(frozen=True)
class Speed:
    """Source bytes per second: `read` from the disk by one thread, `convert` by one thread in
    memory (None when nothing is converted); `sample` bytes were read."""

    read: float
    convert: float | None
    sample: int


def measure(jobs: Iterable[ShardJob], source: Path) -> Speed:
    """Convert the beginning of the largest tensors of `jobs`, of each job one that is converted and
    one that is copied, for a third of a second at most (those of the first job at least).

    Writes nothing; what it reads is dropped from the page cache first. Raises CheckpointError when
    a source cannot be read.
    """
    began = time.perf_counter()
    scratch = Scratch()
    read = convert = 0.0
    sample = converted = 0
    for job in jobs:
        trial = _Trial(job, source, source)
        try:
            ordered = sorted(job.work, key=lambda item: item.source.nbytes)
            for item in {isinstance(item, Copy): item for item in ordered}.values():
                for tile in islice(item.tiles(), _TILES):
                    if not sample:  # the first time also loads code and makes room
                        trial.write(item, tile, scratch)
                    before, start = trial.seconds, time.perf_counter()
                    trial.write(item, tile, scratch)
                    reading = trial.seconds - before
                    read, sample = read + reading, sample + tile.nbytes
                    if not isinstance(item, Copy):
                        convert += time.perf_counter() - start - reading
                        converted += tile.nbytes
        finally:
            trial.close()
        if time.perf_counter() - began > _SECONDS:
            break
    return Speed(sample / read if read else 0, converted / convert if convert else None, sample)


class _Trial(OpenShard):
    """A shard that is written nowhere; `seconds` is how long reading took."""

    seconds = 0.0

    def _begin(self) -> int:
        return -1

    def read(self, extent: Extent, into: NDArray[Any]) -> NDArray[Any]:
        descriptor = self.files[extent.file]
        os.posix_fadvise(descriptor, extent.offset, extent.nbytes, os.POSIX_FADV_DONTNEED)
        start = time.perf_counter()
        super().read(extent, into)
        self.seconds += time.perf_counter() - start
        return into

    def put(self, data: NDArray[Any], at: int) -> None:
        """Nowhere."""
