"""Pieces of a conversion besides copying and FP8 dequantization, as data."""

from collections.abc import Iterator
from dataclasses import dataclass

from flagdeploy.checkpoint.fp8 import itemsize
from flagdeploy.checkpoint.fp8_encode import BLOCK
from flagdeploy.checkpoint.int4 import GROUP
from flagdeploy.checkpoint.jobs import Copy, Dequantize, Extent, Tile

# Elements of one tile: as BF16, the megabyte or two that stay in cache.
_ELEMENTS = 1 << 19


@dataclass(frozen=True, slots=True)
class QuantizeInt4:
    """A matrix of `shape` (rows, columns) that goes as packed INT4 to byte `at`, its scales (one
    per 128 columns) to `scale_at`.

    `values` says how it becomes BF16. `layout` is ``trtllm`` (two's complement, FP32 scales) or
    ``vllm`` (q + 8, BF16 scales).
    """

    name: str
    values: Copy | Dequantize
    shape: tuple[int, int]
    layout: str
    at: int
    scale_at: int

    @property
    def source(self) -> Extent:
        return self.values.source

    @property
    def reads(self) -> tuple[Extent, ...]:
        return self.values.reads

    def tiles(self) -> Iterator[Tile]:
        size = 1 if isinstance(self.values, Dequantize) else 2
        for row, column, high, wide in _cut(self.shape):
            first = row * self.shape[1] + column
            yield Tile(first * size, high * wide * size, first // 2, row, column, high)


@dataclass(frozen=True, slots=True)
class DecodeInt4:
    """Packed INT4 of `shape` (rows, columns) that goes as `to` to byte `at`; for `layout` see
    QuantizeInt4."""

    name: str
    source: Extent
    scale: Extent
    shape: tuple[int, int]
    to: str
    at: int
    layout: str = "trtllm"

    @property
    def reads(self) -> tuple[Extent, ...]:
        return self.source, self.scale

    def tiles(self) -> Iterator[Tile]:
        for row, column, high, wide in _cut(self.shape):
            first = row * self.shape[1] + column
            at = first * itemsize(self.to)
            yield Tile(first // 2, high * wide // 2, at, row, column, high)


@dataclass(frozen=True, slots=True)
class QuantizeFp8:
    """A BF16 matrix of `shape` that goes as FP8 to byte `at`, its scales to `scale_at`.

    A tile is one row of blocks of 128 x 128: the memory needed grows with the number of columns.
    """

    name: str
    source: Extent
    shape: tuple[int, int]
    at: int
    scale_at: int

    @property
    def reads(self) -> tuple[Extent, ...]:
        return (self.source,)

    def tiles(self) -> Iterator[Tile]:
        rows, columns = self.shape
        for row in range(0, rows if columns else 0, BLOCK):
            high = min(BLOCK, rows - row)
            first = row * columns
            yield Tile(first * 2, high * columns * 2, first, row, 0, high)


@dataclass(frozen=True, slots=True)
class DecodeMxfp4:
    """MXFP4 experts [experts, rows, columns] that go transposed, [experts, columns, rows], as `to`
    to byte `at`, with the exponents of groups of 32 columns in `scale`. A tile is an expert."""

    name: str
    source: Extent
    scale: Extent
    shape: tuple[int, int, int]
    to: str
    at: int

    @property
    def reads(self) -> tuple[Extent, ...]:
        return self.source, self.scale

    def tiles(self) -> Iterator[Tile]:
        experts, rows, columns = self.shape
        count = rows * columns
        for expert in range(experts if count else 0):
            at = expert * count * itemsize(self.to)
            yield Tile(expert * count // 2, count // 2, at, expert, 0, rows)


def _cut(shape: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Contiguous pieces of a matrix: row, column, height, width; columns are cut between groups."""
    rows, columns = shape
    if not rows * columns:
        return
    height = max(1, _ELEMENTS // columns)
    width = columns if columns <= _ELEMENTS else _ELEMENTS // GROUP * GROUP
    for row in range(0, rows, height):
        for column in range(0, columns, width):
            yield row, column, min(height, rows - row), min(width, columns - column)
