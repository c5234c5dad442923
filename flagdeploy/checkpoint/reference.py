"""What a conversion must have written, computed another way than by the conversion.

Everything is in double precision: products and quotients of its numbers have at most 48 significant
bits or are far from halfway between two FP32 numbers, so rounding them to FP32 gives what FP32
arithmetic gives. The definitions are those of fp8.py, fp8_encode.py, int4.py and mxfp4.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flagdeploy.checkpoint.fp8 import decode_scales, decode_table, itemsize, round_product
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
from flagdeploy.checkpoint.reading import OpenFolder, Piece
from flagdeploy.checkpoint.safetensors_file import DTYPE_BITS

Array = NDArray[Any]

_E4M3 = decode_table().astype(np.float64)
_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
_UNSIGNED: dict[int, type[np.unsignedinteger[Any]]] = {1: np.uint8, 2: np.uint16, 4: np.uint32}


@dataclass(frozen=True, slots=True)
class Part:
    """The codes (unsigned) that belong into a rectangle of one stored tensor: its first row and
    column, and how many elements a row of the tensor has."""

    row: int
    column: int
    across: int
    codes: Array


@dataclass(frozen=True, slots=True)
class Made:
    """A piece computed again: its `exact` values (float64; None for copies), the `parts` of the
    stored tensors, and how codes stored there are read as values."""

    exact: Array | None
    parts: tuple[Part, ...]
    values: Callable[[list[Array]], Array]


def recompute(item: Work, piece: Piece, source: OpenFolder) -> Made:
    """Compute one piece of what `item` must have written."""
    with np.errstate(all="ignore"):
        if isinstance(item, Dequantize):
            return _dequantize(item, piece, source)
        if isinstance(item, QuantizeInt4):
            return _quantize_int4(item, piece, source)
        if isinstance(item, QuantizeFp8):
            return _quantize_fp8(item, piece, source)
        if isinstance(item, DecodeInt4):
            return _decode_int4(item, piece, source)
        if isinstance(item, DecodeMxfp4):
            return _decode_mxfp4(item, piece, source)
    assert isinstance(item, Copy)
    raw = source.read(item.source.file, item.source.offset + piece.column, piece.width)
    part = Part(0, piece.column, item.source.nbytes, raw.reshape(1, -1))
    return Made(None, (part,), lambda codes: codes[0])


def plain_values(codes: Array, to: str) -> Array:
    """Codes of bf16 (uint16), fp16 (uint16) or fp32 (uint32) as float64."""
    if to == "bf16":
        return (codes.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    return codes.view(np.float16 if to == "fp16" else np.float32).astype(np.float64)


def _rounded(exact: Array, to: str) -> Array:
    """The codes that exact products become: rounded to FP32, then to the target."""
    return round_product(exact.astype(np.float32), to).view(_UNSIGNED[itemsize(to)])


def _plain(exact: Array, piece: Piece, across: int, to: str) -> Made:
    part = Part(piece.row, piece.column, across, _rounded(exact, to))
    return Made(exact, (part,), lambda codes: plain_values(codes[0], to))


def _products(item: Dequantize, piece: Piece, source: OpenFolder) -> Array:
    """Codes of FP8 times scales, exactly: 4 bits by 24."""
    columns, (high, wide) = item.shape[1], item.block
    extent = item.source
    codes = source.rectangle(extent.file, extent.offset, np.uint8, piece, columns)
    top, left = piece.row // high, piece.column // wide
    grid = Piece(
        top,
        left,
        -(-(piece.row + piece.height) // high) - top,
        -(-(piece.column + piece.width) // wide) - left,
    )
    unit = _UNSIGNED[DTYPE_BITS[item.scale_dtype] // 8]
    across = -(-columns // wide)
    raw = source.rectangle(item.scale.file, item.scale.offset, unit, grid, across)
    scales = decode_scales(raw.reshape(-1).view(np.uint8), item.scale_dtype).astype(np.float64)
    lines = np.repeat(scales.reshape(raw.shape), wide, axis=1)
    start = piece.column - left * wide
    lines = lines[:, start : start + piece.width]
    rows = np.arange(piece.row, piece.row + piece.height) // high - top
    product: Array = _E4M3[codes]
    product *= lines if len(lines) == 1 else lines[rows]
    return product


def _dequantize(item: Dequantize, piece: Piece, source: OpenFolder) -> Made:
    return _plain(_products(item, piece, source), piece, item.shape[1], item.to)


def _bf16(file: str, offset: int, columns: int, piece: Piece, source: OpenFolder) -> Array:
    return plain_values(source.rectangle(file, offset, np.uint16, piece, columns), "bf16")


def _quantize_int4(item: QuantizeInt4, piece: Piece, source: OpenFolder) -> Made:
    columns, values = item.shape[1], item.values
    if isinstance(values, Dequantize):
        exact = _products(values, piece, source)
        weights = plain_values(_rounded(exact, "bf16"), "bf16")
    else:
        extent = values.source
        exact = weights = _bf16(extent.file, extent.offset, columns, piece, source)
    groups = weights.reshape(piece.height, -1, GROUP)
    scale = (np.abs(groups).max(axis=2) / 7).astype(np.float32)
    scale[scale == 0] = 1
    quotient = (groups / scale.astype(np.float64)[..., None]).astype(np.float32)
    numbers = np.clip(np.rint(quotient), -8, 7).astype(np.int8).reshape(piece.height, -1)
    vllm = item.layout == "vllm"
    halves = ((numbers + np.int8(8)) if vllm else (numbers & np.int8(15))).astype(np.uint8)
    packed = halves[:, 0::2] | halves[:, 1::2] << np.uint8(4)
    kept = _rounded(scale.astype(np.float64), "bf16" if vllm else "fp32")
    each = 8 if vllm else 2
    codes = np.ascontiguousarray(packed).view(np.uint32 if vllm else np.uint8)

    def stored(found: list[Array]) -> Array:
        halved = _numbers(found[0].view(np.uint8), vllm).reshape(piece.height, -1, GROUP)
        scales = plain_values(found[1], "bf16" if vllm else "fp32")
        return (halved * scales[..., None]).reshape(piece.height, -1)

    parts = (
        Part(piece.row, piece.column // each, columns // each, codes),
        Part(piece.row, piece.column // GROUP, columns // GROUP, kept),
    )
    return Made(exact, parts, stored)


def _halves(packed: Array) -> Array:
    """The four-bit halves of bytes, the low one first."""
    halves = np.empty((*packed.shape[:-1], 2 * packed.shape[-1]), np.uint8)
    np.bitwise_and(packed, np.uint8(15), out=halves[..., 0::2])
    np.right_shift(packed, np.uint8(4), out=halves[..., 1::2])
    return halves


def _numbers(packed: Array, offset: bool) -> Array:
    """The integers of packed bytes: two's complement, or with an `offset` of 8."""
    halves = _halves(packed).view(np.int8)
    return halves - np.int8(8) if offset else (halves ^ np.int8(8)) - np.int8(8)


def _quantize_fp8(item: QuantizeFp8, piece: Piece, source: OpenFolder) -> Made:
    """`piece` lies in one row of blocks and starts a block."""
    columns = item.shape[1]
    exact = _bf16(item.source.file, item.source.offset, columns, piece, source)
    peaks = np.maximum.reduceat(np.abs(exact).max(axis=0), np.arange(0, piece.width, BLOCK))
    scale = (peaks / 448).astype(np.float32)
    scale[scale == 0] = 1
    factors = np.repeat(scale, BLOCK)[: piece.width].astype(np.float64)
    codes = _nearest_e4m3((exact / factors).astype(np.float32))

    def stored(found: list[Array]) -> Array:
        scales = np.repeat(found[1].view(np.float32), BLOCK)[: piece.width]
        return _E4M3[found[0]] * scales.astype(np.float64)

    parts = (
        Part(piece.row, piece.column, columns, codes),
        Part(
            piece.row // BLOCK,
            piece.column // BLOCK,
            -(-columns // BLOCK),
            scale.view(np.uint32).reshape(1, -1),
        ),
    )
    return Made(exact, parts, stored)


def _nearest_e4m3(values: Array) -> Array:
    """The codes of the values of e4m3fn nearest to FP32 values, halves to even, at most 448:
    multiples of the step of each value's binade, counted."""
    size = np.minimum(np.abs(values.astype(np.float64)), 448)
    binade = np.maximum((size.view(np.int64) >> 52) - 1023, -6)
    steps = np.rint(size * _power(3 - binade))
    codes: Array = ((binade + 6) * 8 + steps.astype(np.int64)).astype(np.uint8)
    codes |= np.signbit(values).astype(np.uint8) << np.uint8(7)
    return codes


def _power(exponents: Array) -> Array:
    """2.0 to integers (int64) within the range of double precision."""
    return ((exponents + 1023) << 52).view(np.float64)


def _decode_int4(item: DecodeInt4, piece: Piece, source: OpenFolder) -> Made:
    columns, vllm = item.shape[1], item.layout == "vllm"
    halved = Piece(piece.row, piece.column // 2, piece.height, piece.width // 2)
    packed = source.rectangle(item.source.file, item.source.offset, np.uint8, halved, columns // 2)
    grouped = Piece(piece.row, piece.column // GROUP, piece.height, piece.width // GROUP)
    unit = np.uint16 if vllm else np.uint32
    extent = item.scale
    scales = source.rectangle(extent.file, extent.offset, unit, grouped, columns // GROUP)
    numbers = _numbers(packed, vllm).reshape(*scales.shape, GROUP)
    exact = numbers * plain_values(scales, "bf16" if vllm else "fp32")[..., None]
    return _plain(exact.reshape(piece.height, -1), piece, columns, item.to)


def _decode_mxfp4(item: DecodeMxfp4, piece: Piece, source: OpenFolder) -> Made:
    """`piece` lies in one expert; its transpose is what is stored."""
    _, rows, columns = item.shape
    halved = Piece(piece.row, piece.column // 2, piece.height, piece.width // 2)
    packed = source.rectangle(item.source.file, item.source.offset, np.uint8, halved, columns // 2)
    grouped = Piece(piece.row, piece.column // MX_GROUP, piece.height, piece.width // MX_GROUP)
    exponents = source.rectangle(
        item.scale.file, item.scale.offset, np.uint8, grouped, columns // MX_GROUP
    )
    scales = _power(exponents.astype(np.int64) - 127)
    scales[exponents == 255] = np.nan
    numbers = _E2M1[_halves(packed)].reshape(*scales.shape, MX_GROUP)
    exact = (numbers * scales[..., None]).reshape(piece.height, -1).T
    expert, row = divmod(piece.row, rows)
    place = Piece(expert * columns + piece.column, row, piece.width, piece.height)
    return _plain(np.ascontiguousarray(exact), place, rows, item.to)
