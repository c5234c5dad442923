"""Read converted shards back and compare every byte with the source, converted once more."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flagdeploy.checkpoint.convert import convert
from flagdeploy.checkpoint.folder import explained
from flagdeploy.checkpoint.jobs import ShardJob
from flagdeploy.checkpoint.shard import OpenShard
from flagdeploy.errors import CheckpointError


def compare(
    job: ShardJob, source: Path, out: Path, workers: int, progress: Callable[[int], None]
) -> None:
    """Raise CheckpointError unless `out` holds what `job` makes of `source`, to the last byte.

    The file is read from the disk, not from what memory remembers of it. `progress` is that of
    `convert`.
    """
    convert([job], source, out, workers, progress, lambda shard, counts: None, kind=_Compared)


class _Compared(OpenShard):
    """A shard that is there: what would be written is compared."""

    def _begin(self) -> int:
        with explained(f"cannot read {self.path}"):
            target = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            self.descriptors.append(target)
            if os.fstat(target).st_size != self.job.nbytes:
                raise self._differs()
            os.posix_fadvise(target, 0, 0, os.POSIX_FADV_DONTNEED)
        self.target = target
        for at, content in ((0, self.job.head), *self.job.constants):
            self.put(np.frombuffer(content, np.uint8), at)
        return target

    def put(self, data: NDArray[Any], at: int) -> None:
        found = np.empty(data.nbytes, np.uint8)
        with explained(f"cannot read {self.path}"):
            done = 0
            while done < found.size:
                count = os.preadv(self.target, [found.data[done:]], at + done)
                if not count:
                    raise self._differs()
                done += count
        if not np.array_equal(found, data.reshape(-1).view(np.uint8)):
            raise self._differs()

    def commit(self) -> None:
        self.close()

    def _differs(self) -> CheckpointError:
        return CheckpointError(
            f"{self.path}: differs from the source when it is read back and computed again",
            "memory or the disk of this machine may be at fault; the source is still whole",
        )
