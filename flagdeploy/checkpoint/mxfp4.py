"""MXFP4 decoding: two e2m1 values per byte, a power of two per 32 of them, in NumPy.

Format: OCP Microscaling specification, as openai/gpt-oss (gpt_oss/torch/weights.py) lays it out:
the low half of a byte is the even element, scales are ``2**(byte - 127)``, 255 is NaN.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flagdeploy.checkpoint.fp8 import decode_scales

Array = NDArray[Any]

GROUP = 32
_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
_PAIRS = np.stack([np.tile(_E2M1, 16), np.repeat(_E2M1, 16)], axis=1)


def decode(blocks: Array, exponents: Array) -> Array:
    """FP32 values [rows, groups * 32] of uint8 `blocks` [rows, groups, 16] and `exponents`
    [rows, groups]; exact but where they pass FP32's range."""
    scales = decode_scales(exponents, "F8_E8M0")
    with np.errstate(all="ignore"):
        values = _PAIRS[blocks].reshape(*blocks.shape[:2], GROUP) * scales[..., None]
    return values.reshape(len(blocks), -1)
