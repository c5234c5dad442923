"""Rows on disk for good: JSON lines that are only ever appended, each fsynced before it counts.

Rows that arrive while an fsync runs share the next one (group commit, as databases do), in a
thread, so that neither the event loop nor a fast endpoint ever waits for more than one of them.
"""

import asyncio
import fcntl
import json
import os
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flagdeploy.errors import EvalError
from flagdeploy.records.files import sync_folder


class Journal:
    """A context manager inside a running event loop; one process at a time has the file open.

    ``with Journal(path) as journal: rows = list(journal.rows()); await journal.append(row)``

    A torn last line (the process was killed in a write, the disk was full) is cut off. `size` are
    its bytes when it was left. Raises EvalError when another process records there, and from
    `append` when the disk takes no more.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._descriptor = -1
        self._queue: queue.SimpleQueue[tuple[bytes, asyncio.Future[None]] | None]
        self._queue = queue.SimpleQueue()
        self._failure: OSError | None = None

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise EvalError(
                f"{self.path}: another run is recording there",
                hint="wait until it ends, or record into another folder",
            ) from None
        _cut_torn_line(self._descriptor)
        sync_folder(self.path.parent)
        self._loop = asyncio.get_running_loop()
        self._writer = threading.Thread(target=self._write_all, name="journal")
        self._writer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Rows already handed to `append` are written, whoever stopped waiting for them."""
        self._queue.put(None)
        self._writer.join()
        self.size = _cut_torn_line(self._descriptor)
        os.close(self._descriptor)

    def rows(self, start: int = 0) -> Iterator[dict[str, Any]]:
        """What was recorded from byte `start` on; what is no JSON object (damage) is left out."""
        with self.path.open("rb") as lines:
            lines.seek(start)
            for line in lines:
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                if isinstance(row, dict):
                    yield row

    async def append(self, row: dict[str, Any]) -> None:
        """Returns when `row` is on disk."""
        line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        written = self._loop.create_future()
        self._queue.put((line, written))
        await written

    def _write_all(self) -> None:
        while batch := self._next_batch():
            try:
                self._write(b"".join(line for line, _ in batch))
            except OSError as failure:
                self._failure = failure
            self._loop.call_soon_threadsafe(self._tell, [written for _, written in batch])

    def _next_batch(self) -> list[tuple[bytes, asyncio.Future[None]]]:
        """Whatever waits, at least one row; empty when the journal is closed."""
        batch = []
        entry = self._queue.get()
        while entry is not None:
            batch.append(entry)
            if self._queue.empty():
                return batch
            entry = self._queue.get()
        self._queue.put(None)  # for the next call, which then ends the thread
        return batch

    def _write(self, data: bytes) -> None:
        if self._failure:  # part of a line may be on disk, and nothing may follow it
            raise self._failure
        while data:
            data = data[os.write(self._descriptor, data) :]
        os.fsync(self._descriptor)

    def _tell(self, waiting: list[asyncio.Future[None]]) -> None:
        for written in waiting:
            if written.done():  # cancelled meanwhile
                continue
            if self._failure is None:
                written.set_result(None)
            else:
                written.set_exception(
                    EvalError(
                        f"{self.path}: cannot record any more: {self._failure.strerror}",
                        hint="what is recorded is kept; the same command goes on from there",
                    )
                )


def _cut_torn_line(descriptor: int) -> int:
    """Truncate the file behind its last newline; its size then."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - 2**20)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        end = start + newline + 1
        if newline >= 0:
            break
    os.ftruncate(descriptor, end)
    return end
