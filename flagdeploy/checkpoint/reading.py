"""Read rectangles of stored tensors, from several threads, without mapping or loading files."""

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from flagdeploy.checkpoint.folder import explained, inside
from flagdeploy.errors import CheckpointError

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Piece:
    """A rectangle of a matrix, in elements; of a Copy, `width` bytes from byte `column` on.

    Of stacked matrices (MXFP4 experts) `row` counts through all of them.
    """

    row: int
    column: int
    height: int
    width: int


class OpenFolder:
    """The files of a checkpoint folder, each opened when it is first read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._descriptors: dict[str, int] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)

    def read(self, file: str, offset: int, nbytes: int) -> Array:
        """Bytes of a file (uint8). Raises CheckpointError when they cannot be read."""
        return self._read(file, offset, 1, nbytes, 0).reshape(-1)

    def rectangle(
        self, file: str, offset: int, dtype: type[np.generic], piece: Piece, across: int
    ) -> Array:
        """A piece of the matrix of rows of `across` elements that starts at byte `offset`."""
        size = np.dtype(dtype).itemsize
        first = offset + (piece.row * across + piece.column) * size
        height, width = piece.height, piece.width * size
        if piece.width == across:
            height, width = 1, height * width
        data = self._read(file, first, height, width, across * size)
        return data.reshape(-1).view(dtype).reshape(piece.height, piece.width)

    def _read(self, file: str, offset: int, count: int, nbytes: int, step: int) -> Array:
        """`count` rows of `nbytes` that start `step` bytes apart."""
        data = np.empty((count, nbytes), np.uint8)
        path = f"{self.folder}/{file}"
        with explained(f"cannot read {path}"):
            descriptor = self._open(file)
            for row in range(count):
                line, at, done = data[row].data, offset + row * step, 0
                while done < nbytes:
                    got = os.preadv(descriptor, [line[done:]], at + done)
                    if not got:
                        raise CheckpointError(f"{path}: ends early: it was cut while being read")
                    done += got
        return data

    def _open(self, file: str) -> int:
        with self._lock:
            if file not in self._descriptors:
                path = inside(self.folder, file)
                self._descriptors[file] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            return self._descriptors[file]
