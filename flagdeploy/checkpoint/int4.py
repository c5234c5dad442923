"""INT4 weights in groups of 128 along the input dimension, as W4AFP8 stores them, in NumPy.

Defined result, for values rounded to BF16: ``scale = max|x| / 7`` of each group in FP32 (1 for a
group of zeros), ``q = round_half_even(x / scale)`` with the quotient in FP32. q is always between
-7 and 7: the quotient of the largest value is 7 but for rounding errors, so nothing is clamped.
Byte k of a row holds q[2k] in its low and q[2k + 1] in its high half, either in two's complement
(TensorRT-LLM, examples/quantization/quantize_mixed_precision_moe.py) or as q + 8
(compressed-tensors, pack-quantized: eight values per little-endian int32, first value lowest).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

GROUP = 128
# Adding 1.5 * 2**23 leaves a number's nearest integer, halves to even, in the low bits of FP32.
_MAGIC = np.float32(12582912.0)
_INFINITY = np.uint16(0x7F80)
_OFFSET = np.uint8(0x88)
# Groups of one pass over the scratch arrays, which then stay in the second-level cache.
_STRIPE = 512


class Int4Quantizer:
    """Quantizes BF16 values, reusing its scratch memory; one per thread."""

    def __init__(self) -> None:
        self._magnitude = np.empty((_STRIPE, GROUP), np.uint16)
        self._quotient = np.empty((_STRIPE, GROUP), np.float32)
        self._high = np.empty((_STRIPE, GROUP // 2), np.uint64)

    def __call__(self, values: Array, packed: Array, scales: Array, offset: bool = False) -> bool:
        """Quantize groups; False, and nothing defined, when a value is NaN or infinite.

        `values` uint16 [groups, 128] are BF16 bits, `packed` uint8 [groups, 64] and `scales`
        float32 [groups] the results; `offset` asks for q + 8 instead of two's complement.
        """
        for start in range(0, len(values), _STRIPE):
            part = slice(start, start + _STRIPE)
            if not self._stripe(values[part], packed[part], scales[part]):
                return False
            if offset:
                packed[part] ^= _OFFSET
        return True

    def _stripe(self, values: Array, packed: Array, scales: Array) -> bool:
        count = len(values)
        magnitude = np.bitwise_and(values, np.uint16(0x7FFF), out=self._magnitude[:count])
        peak = magnitude.max(axis=1)
        if peak.max() >= _INFINITY:
            return False
        np.divide(bf16_to_fp32(peak), np.float32(7), out=scales)
        scales[peak == 0] = 1
        quotient = self._quotient[:count]
        bits = quotient.view(np.uint32)
        np.left_shift(values, np.uint32(16), out=bits, dtype=np.uint32)
        quotient /= scales[:, None]
        quotient += _MAGIC
        pairs, high = quotient.view(np.uint64), self._high[:count]
        np.right_shift(pairs, np.uint64(28), out=high)
        high &= np.uint64(0xF0)
        pairs &= np.uint64(0x0F)
        high |= pairs
        np.copyto(packed, high, casting="unsafe")
        return True


def unpack(packed: Array, offset: bool = False) -> Array:
    """The integers (int8, twice as many on the last axis) of packed bytes (uint8)."""
    plain = packed ^ _OFFSET if offset else packed
    values = np.empty((*packed.shape[:-1], packed.shape[-1] * 2), np.int8)
    values[..., 0::2] = (plain << np.uint8(4)).view(np.int8) >> 4
    values[..., 1::2] = plain.view(np.int8) >> 4
    return values


def bf16_to_fp32(bits: Array) -> Array:
    """BF16 bits (uint16) as FP32, exactly."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
