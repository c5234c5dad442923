"""Exact FP8 e4m3fn block dequantization in NumPy.

Defined result, for every code and every scale: the code's value and the scale are multiplied in
FP32 (one rounding to nearest even), and the product is rounded to nearest even to the target; any
NaN becomes the canonical quiet NaN. This is what `weight_dequant_kernel` of DeepSeek-V3's
inference/kernel.py computes, for blocks that may be ragged at the right and bottom edges.

The fast path builds the FP32 number from the code's bits: sign, four exponent and three mantissa
bits are moved to where FP32 has them, which gives value * 2**-120 (the exponent biases are 7 and
127; e4m3 subnormals become FP32 subnormals, exactly). The missing 2**120 is folded into the scale,
which is exact while it does not overflow, so the product is still rounded once.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

TARGETS = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
_NUMPY = {"bf16": np.uint16, "fp16": np.float16, "fp32": np.float32}
_NAN = {"bf16": np.uint16(0x7FC0), "fp16": np.float16("nan"), "fp32": np.float32("nan")}

_FIELDS = np.int32(0x87F00000 - (1 << 32))
_SHIFT = np.int32(20)
_FOLD = np.float32(2.0**120)
_FOLD_LIMIT = np.float32(256)
# Elements of one pass over the scratch arrays: small enough for the second-level cache, large
# enough that the cost of calling NumPy does not show.
_STRIPE = 1 << 17


def target_dtype(to: str) -> np.dtype[Any]:
    """The NumPy dtype that holds a target's values: float16, float32, uint16 for ``bf16``."""
    return np.dtype(_NUMPY[to])


def itemsize(to: str) -> int:
    """Bytes per element of a target (``bf16``, ``fp16``, ``fp32``)."""
    return int(target_dtype(to).itemsize)


def decode_table() -> Array:
    """The FP32 value of each of the 256 e4m3fn codes (OCP FP8 specification, table 1)."""
    code = np.arange(256)
    exponent, mantissa = (code >> 3) & 15, (code & 7).astype(np.float32)
    normal = np.ldexp(1 + mantissa / 8, exponent - 7)
    value = np.where(exponent == 0, np.ldexp(mantissa, -9), normal)
    value[(code & 0x7F) == 0x7F] = np.nan
    return np.where(code & 0x80, -value, value).astype(np.float32)


def decode_scales(raw: Array, dtype: str) -> Array:
    """Raw scale bytes (uint8, flat) as FP32: F32, BF16, or the exponents of ue8m0 (255 is NaN)."""
    if dtype == "F32":
        return raw.view("<f4")
    if dtype == "BF16":
        return (raw.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
    exponent = np.where(raw == 255, 0, raw.astype(np.int32) - 127)
    return np.where(raw == 255, np.float32("nan"), np.ldexp(np.float32(1), exponent))


def round_product(product: Array, to: str) -> Array:
    """Round FP32 values to nearest even into a target; any NaN becomes the canonical one."""
    nan = np.isnan(product)
    rounded = np.empty(product.shape, _NUMPY[to])
    if to == "bf16":
        bits = np.where(nan, np.float32(0), product).view(np.uint32)
        _round_bf16(bits, np.empty_like(bits), rounded)
    else:
        with np.errstate(all="ignore"):
            rounded[...] = product
    rounded[nan] = _NAN[to]
    return rounded


def nonfinite(values: Array, to: str) -> int:
    """How many values of a target's array are NaN or infinite."""
    if to == "bf16":
        return int(np.count_nonzero((values & np.uint16(0x7F80)) == 0x7F80))
    return int(values.size - np.count_nonzero(np.isfinite(values)))


def _round_bf16(bits: Array, odd: Array, out: Array) -> None:
    """Round FP32 bits (uint32, overwritten; not NaN) to bfloat16; `odd` is scratch."""
    np.right_shift(bits, np.uint32(16), out=odd)
    odd &= np.uint32(1)
    odd += np.uint32(0x7FFF)
    bits += odd
    bits >>= np.uint32(16)
    np.copyto(out, bits, casting="unsafe")


class Dequantizer:
    """Dequantizes tiles into one target format, reusing its scratch memory; one per thread."""

    def __init__(self, to: str) -> None:
        self.to = to
        self.dtype = target_dtype(to)
        self._table = decode_table()
        self._bits = np.empty(0, np.int32)
        self._odd = np.empty(0, np.uint32)

    def __call__(
        self, codes: Array, scales: Array, out: Array, top: int, block: tuple[int, int]
    ) -> int:
        """Dequantize one tile and return how many values of the result are not finite.

        `codes` uint8 [rows, columns] is a tile whose first row is row `top` of its tensor and whose
        first column starts a block; `scales` float32 holds one row per row of blocks that the tile
        touches; `out` is of the target's dtype (uint16 for bf16), same shape as `codes`.
        """
        rows, columns = codes.shape
        height = max(1, _STRIPE // columns)
        start = bad = 0
        with np.errstate(all="ignore"):
            while start < rows:
                block_row = (top + start) // block[0]
                stop = min(rows, start + height, (block_row + 1) * block[0] - top)
                scale = scales[block_row - top // block[0]]
                stripe = slice(start, stop)
                bad += self._stripe(codes[stripe], scale, out[stripe], block[1])
                start = stop
        return bad

    def _stripe(self, codes: Array, scale: Array, out: Array, width: int) -> int:
        # The largest code of either sign is NaN; a scale of 256 or more (or NaN) cannot be folded.
        nan_code = codes.view(np.int8).max() == 0x7F or codes.max() == 0xFF
        foldable = bool((np.abs(scale) < _FOLD_LIMIT).all())
        if nan_code or not foldable:
            factor = np.repeat(scale, width)[: codes.shape[1]]
            out[...] = round_product(self._table[codes] * factor, self.to)
            return nonfinite(out, self.to)
        factor = np.repeat(scale * _FOLD, width)[: codes.shape[1]]
        bits = self._scratch(codes.shape)
        np.left_shift(codes.view(np.int8), _SHIFT, out=bits, dtype=np.int32)
        bits &= _FIELDS
        product = bits.view(np.float32)
        product *= factor
        if self.to == "fp32":
            out[...] = product
        elif self.to == "fp16":
            out[...] = product
            return nonfinite(out, self.to)
        else:
            _round_bf16(product.view(np.uint32), self._odd[: bits.size].reshape(bits.shape), out)
        return 0

    def _scratch(self, shape: tuple[int, ...]) -> Array:
        size = shape[0] * shape[1]
        if self._bits.size < size:
            self._bits = np.empty(size, np.int32)
            self._odd = np.empty(size, np.uint32)
        return self._bits[:size].reshape(shape)
