"""Write converted shards: tiles of tensors are read, converted and written by a pool of threads.

A shard is written as ``NAME.part`` at offsets known beforehand, synced and renamed, so a shard that
has its name is finished. Memory is one tile per thread whatever the sizes of tensors and shards.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

from flagdeploy.checkpoint.jobs import ShardJob, Tile, Work
from flagdeploy.checkpoint.shard import OpenShard, Scratch

NonFinite = Callable[[str, dict[str, int]], None]


def convert(
    jobs: Iterable[ShardJob],
    source: Path,
    out: Path,
    workers: int,
    progress: Callable[[int], None],
    nonfinite: NonFinite,
    parts: Path | None = None,
    kind: type[OpenShard] = OpenShard,
) -> None:
    """Write the shards of `jobs`, each taken when its turn comes, into `out`; on any error or
    interrupt, finished ones remain. Unfinished ones are in `parts`, a folder on the same disk.
    Another `kind` of shard makes something else of the tiles than a file.

    `progress` is called from the calling thread with the number of source bytes done so far.
    `nonfinite` is called, before a shard gets its name, with the tensors of the result that hold
    NaN or infinities and how many. Raises CheckpointError when a file cannot be read or written.
    """
    run = _Run(jobs, source, out, nonfinite, parts, kind)
    try:
        with ThreadPoolExecutor(workers, thread_name_prefix="convert") as pool:
            pending = threads = {pool.submit(run.work) for _ in range(workers)}
            try:
                while pending:
                    _, pending = wait(pending, timeout=0.2, return_when=FIRST_EXCEPTION)
                    progress(run.done)
            finally:
                run.stop.set()
        for thread in threads:
            thread.result()
    finally:
        run.discard()


class _Run:
    """What the threads of a conversion share: the stream of tiles, the shards being written."""

    def __init__(
        self,
        jobs: Iterable[ShardJob],
        source: Path,
        out: Path,
        nonfinite: NonFinite,
        parts: Path | None,
        kind: type[OpenShard],
    ) -> None:
        self.source, self.out, self.parts, self.kind = source, out, parts, kind
        self.nonfinite = nonfinite
        self.stop = threading.Event()
        self.lock = threading.Lock()
        self.done = 0
        self.open: list[OpenShard] = []
        self.stream = self._stream(jobs)

    def _stream(
        self, jobs: Iterable[ShardJob]
    ) -> Iterator[tuple[OpenShard, tuple[Work, Tile] | None]]:
        for job in jobs:
            shard = self.kind(job, self.source, self.out, self.parts)
            self.open.append(shard)
            for item in job.work:
                for tile in item.tiles():
                    shard.pending += 1
                    yield shard, (item, tile)
            # The share of `pending` a shard starts with: without tiles it must be finished too.
            yield shard, None

    def work(self) -> None:
        """One thread: take tiles until there are none."""
        scratch = Scratch()
        try:
            while not self.stop.is_set():
                with self.lock:
                    shard, task = next(self.stream, (None, None))
                if shard is None:
                    return
                bad = shard.write(*task, scratch) if task else 0
                if self._last(shard, task, bad):
                    self._commit(shard)
        except BaseException:
            self.stop.set()
            raise

    def _last(self, shard: OpenShard, task: tuple[Work, Tile] | None, bad: int) -> bool:
        """Count one tile; true when it was the last of its shard."""
        with self.lock:
            if task:
                self.done += task[1].nbytes
            if task and bad:
                name = task[0].name
                shard.nonfinite[name] = shard.nonfinite.get(name, 0) + bad
            shard.pending -= 1
            return not shard.pending

    def _commit(self, shard: OpenShard) -> None:
        if shard.nonfinite:
            with self.lock:
                self.nonfinite(shard.job.name, dict(sorted(shard.nonfinite.items())))
        shard.commit()
        with self.lock:
            self.open.remove(shard)

    def discard(self) -> None:
        """Remove what was begun and not finished; a killed process leaves it to the next run."""
        for shard in self.open:
            shard.close()
            with suppress(OSError):
                shard.part.unlink()
