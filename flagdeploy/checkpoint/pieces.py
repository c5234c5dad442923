"""Cut tensors into pieces that are small enough for caches and end where scales do."""

import random
from collections.abc import Iterator

from flagdeploy.checkpoint.fp8_encode import BLOCK
from flagdeploy.checkpoint.int4 import GROUP
from flagdeploy.checkpoint.jobs import Copy, Dequantize, Work
from flagdeploy.checkpoint.mxfp4 import GROUP as MX_GROUP
from flagdeploy.checkpoint.quantize_jobs import (
    DecodeInt4,
    DecodeMxfp4,
    QuantizeFp8,
    QuantizeInt4,
)
from flagdeploy.checkpoint.reading import Piece

# Elements of a piece: some ten arrays of doubles, which stay in the caches.
_ELEMENTS = 1 << 16
_SIDE = 512  # of a square piece
_COPY_BYTES = 1 << 18
_SAMPLE_BYTES = 4096


def pieces(item: Work) -> Iterator[Piece]:
    """Cut a whole tensor into pieces."""
    if isinstance(item, Copy):
        for start in range(0, item.source.nbytes, _COPY_BYTES):
            yield Piece(0, start, 1, min(_COPY_BYTES, item.source.nbytes - start))
        return
    count, rows, columns = _matrices(item)
    high = max(1, _ELEMENTS // max(columns, 1))
    wide = columns if columns <= _ELEMENTS else _ELEMENTS
    if isinstance(item, QuantizeFp8):
        high, wide = BLOCK, 2 * _SIDE
    elif isinstance(item, DecodeMxfp4):
        high = wide = _SIDE
    for first in range(0, count * rows, rows) if rows * columns else ():
        for row in range(0, rows, high):
            for column in range(0, columns, wide):
                height, width = min(high, rows - row), min(wide, columns - column)
                yield Piece(first + row, column, height, width)


def any_piece(item: Work, chance: random.Random) -> Piece:
    """A small piece at a random place of a tensor that is not empty: one scale and what it scales,
    or one row of that; 4 kB of a copied tensor."""
    if isinstance(item, Copy):
        start = chance.randrange(item.source.nbytes) // _SAMPLE_BYTES * _SAMPLE_BYTES
        return Piece(0, start, 1, min(_SAMPLE_BYTES, item.source.nbytes - start))
    count, rows, columns = _matrices(item)
    wide = {DecodeMxfp4: MX_GROUP, QuantizeFp8: BLOCK}.get(type(item), GROUP)
    if isinstance(item, Dequantize):
        wide = item.block[1]
    high = BLOCK if isinstance(item, QuantizeFp8) else 1
    row = chance.randrange(-(-count * rows // high)) * high
    column = chance.randrange(-(-columns // wide)) * wide
    return Piece(row, column, min(high, count * rows - row), min(wide, columns - column))


def share(item: Work | bytes, piece: Piece) -> int:
    """The bytes of the source, scales aside, that a piece stands for."""
    if isinstance(item, bytes | Copy):
        return piece.width
    count, rows, columns = _matrices(item)
    return item.source.nbytes * piece.height * piece.width // (count * rows * columns)


def _matrices(item: Work) -> tuple[int, int, int]:
    """How many matrices a tensor has, and their rows and columns."""
    assert isinstance(item, Dequantize | QuantizeFp8 | QuantizeInt4 | DecodeInt4 | DecodeMxfp4)
    return item.shape if isinstance(item, DecodeMxfp4) else (1, *item.shape)
