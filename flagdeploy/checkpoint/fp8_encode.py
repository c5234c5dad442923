"""FP8 e4m3fn encoding in blocks of 128 x 128, DeepSeek's own, in NumPy.

Defined result: ``scale = max|x| / 448`` of each block in FP32 (1 where that is 0), the code is
``x / scale`` in FP32 rounded to nearest even among the values of e4m3fn, at most 448 (OCP FP8
specification; the scale's name and place: DeepSeek-V3 README_WEIGHTS.md).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

BLOCK = 128
_MAX = np.float32(448)
# 2**14: FP32 has steps of 2**-9 there, which is the step of e4m3fn's subnormals.
_STEP = np.float32(16384)


def encode(values: Array) -> Array:
    """The e4m3fn codes (uint8) nearest to finite FP32 values, saturating at 448."""
    bits = values.view(np.uint32)
    sign = (bits >> np.uint32(24)).astype(np.uint8) & np.uint8(0x80)
    size = np.minimum(np.abs(values), _MAX)
    bits = size.view(np.uint32)
    # Normal: keep three of 23 mantissa bits; the exponent biases are 127 and 7.
    odd = (bits >> np.uint32(20)) & np.uint32(1)
    normal = ((bits + np.uint32(0x7FFFF) + odd) >> np.uint32(20)).view(np.int32) - 960
    # Subnormal: multiples of 2**-9; the eighth is the first normal number.
    small = (size + _STEP).view(np.int32) - _STEP.view(np.int32)
    code: Array = np.maximum(normal, np.minimum(small, 8)).astype(np.uint8)
    code |= sign
    return code


def quantize_blocks(values: Array, codes: Array, scales: Array) -> bool:
    """Quantize one row of blocks; False, and nothing defined, when a value is NaN or infinite.

    `values` float32 and `codes` uint8 [at most 128, columns]; `scales` float32
    [ceil(columns / 128)].
    """
    for index, left in enumerate(range(0, values.shape[1], BLOCK)):
        block = values[:, left : left + BLOCK]
        peak = np.abs(block).max()
        if not np.isfinite(peak):
            return False
        scale = peak / _MAX or np.float32(1)
        scales[index] = scale
        codes[:, left : left + BLOCK] = encode(block / scale)
    return True
