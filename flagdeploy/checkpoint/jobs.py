"""What a conversion does, as data: output shards made of tensors that are copied or dequantized."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flagdeploy.checkpoint.fp8 import itemsize

# Output bytes of one tile: read, converted and written while in cache.
TILE_BYTES = 2 << 20


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes of a source shard: absolute `offset` in `file`."""

    file: str
    offset: int
    nbytes: int


class Work(Protocol):
    """What becomes of one tensor of the source: it is cut into tiles, each done at once."""

    @property
    def name(self) -> str: ...

    @property
    def source(self) -> Extent: ...

    @property
    def reads(self) -> tuple[Extent, ...]:
        """Everything it is made of."""
        ...

    def tiles(self) -> Iterator["Tile"]: ...


@dataclass(frozen=True, slots=True)
class Copy:
    """A tensor that goes as it is to byte `at` of the output shard."""

    name: str
    source: Extent
    at: int

    @property
    def reads(self) -> tuple[Extent, ...]:
        return (self.source,)

    def tiles(self) -> Iterator["Tile"]:
        for start in range(0, self.source.nbytes, TILE_BYTES):
            yield Tile(start, min(TILE_BYTES, self.source.nbytes - start), start)


@dataclass(frozen=True, slots=True)
class Dequantize:
    """An FP8 tensor of `shape` (rows, columns) that goes dequantized to byte `at`.

    Its `scale` has ceil(rows / block[0]) rows of ceil(columns / block[1]) values of `scale_dtype`.
    """

    name: str
    source: Extent
    scale: Extent
    scale_dtype: str
    shape: tuple[int, int]
    block: tuple[int, int]
    to: str
    at: int

    @property
    def reads(self) -> tuple[Extent, ...]:
        return self.source, self.scale

    def tiles(self) -> Iterator["Tile"]:
        rows, columns = self.shape
        if not rows * columns:
            return
        size = itemsize(self.to)
        limit = TILE_BYTES // size
        height = max(1, limit // columns)
        width = columns if columns <= limit else max(1, limit // self.block[1]) * self.block[1]
        for row in range(0, rows, height):
            for column in range(0, columns, width):
                high, wide = min(height, rows - row), min(width, columns - column)
                start = row * columns + column
                yield Tile(start, high * wide, start * size, row, column, high)


@dataclass(frozen=True, slots=True)
class Tile:
    """`nbytes` contiguous source bytes from `start` of a tensor, written from `at` of its place.

    For a Dequantize: the `height` rows from `row`, from `column` on.
    """

    start: int
    nbytes: int
    at: int
    row: int = 0
    column: int = 0
    height: int = 1


@dataclass(frozen=True, slots=True)
class ShardJob:
    """One output shard: `head` are the bytes before the data, `nbytes` the size of the file.

    `constants` are tensors known beforehand: (byte of the file, content).
    """

    name: str
    head: bytes
    work: tuple[Work, ...]
    nbytes: int
    constants: tuple[tuple[int, bytes], ...] = ()

    @property
    def sources(self) -> set[str]:
        return {extent.file for item in self.work for extent in item.reads}


def finished(job: ShardJob, out: Path) -> bool:
    """True when `out` holds this shard as the job would write it (size and whole header)."""
    path = out / job.name
    if not path.is_file() or path.stat().st_size != job.nbytes:
        return False
    with path.open("rb") as file:
        return file.read(len(job.head)) == job.head
