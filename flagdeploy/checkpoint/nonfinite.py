"""NaN and infinities in stored tensors, at the speed of memory.

In every format here the codes of infinity and NaN lie above those of the numbers of the same sign.
So a chunk holds one exactly when its largest code, taken as signed or as unsigned integer, reaches
the first of them: two reductions, no temporaries. Formats: IEEE 754, bfloat16, and the OCP
specifications of FP8 (e4m3 has NaN 0x7F and 0xFF alone) and of Microscaling (e8m0: 0xFF).
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flagdeploy.checkpoint.formats import SCALE
from flagdeploy.checkpoint.safetensors_file import Tensor, place

Array = NDArray[Any]


class _Codes(NamedTuple):
    """Integer types of the codes; the least positive code of a non-number; that of infinity."""

    unsigned: type[np.unsignedinteger[Any]]
    signed: type[np.signedinteger[Any]]
    first: int
    infinity: int | None


_CODES = {
    "F8_E4M3": _Codes(np.uint8, np.int8, 0x7F, None),
    "F8_E5M2": _Codes(np.uint8, np.int8, 0x7C, 0x7C),
    "F16": _Codes(np.uint16, np.int16, 0x7C00, 0x7C00),
    "BF16": _Codes(np.uint16, np.int16, 0x7F80, 0x7F80),
    "F32": _Codes(np.uint32, np.int32, 0x7F800000, 0x7F800000),
    "F64": _Codes(np.uint64, np.int64, 0x7FF << 52, 0x7FF << 52),
}
# Formats with one code for NaN and no infinity.
_ONE_NAN = {"F8_E8M0": 0xFF, "F8_E4M3FNUZ": 0x80, "F8_E5M2FNUZ": 0x80}


@dataclass(frozen=True)
class NotFinite:
    """How many values are NaN and infinite, and the place of the first in the tensor's data."""

    nan: int
    infinite: int
    first: int

    def __add__(self, later: "NotFinite") -> "NotFinite":
        return NotFinite(self.nan + later.nan, self.infinite + later.infinite, self.first)

    def describe(self, tensor: Tensor) -> str:
        counts = {"NaN": self.nan, "infinite": self.infinite}
        what = " and ".join(f"{count} {kind}" for kind, count in counts.items() if count)
        total = math.prod(tensor.shape)
        return f"{what} of {total} values, the first at {place(self.first, tensor.shape)}"


def value_dtype(tensor: Tensor) -> str:
    """What a tensor's bytes mean: scales stored as U8 are exponents of e8m0 (MXFP4, ue8m0)."""
    exponents = tensor.dtype == "U8" and tensor.name.endswith(("_scales", SCALE))
    return "F8_E8M0" if exponents else tensor.dtype


def not_finite(raw: memoryview, start: int, dtype: str) -> NotFinite | None:
    """What of the raw elements of a safetensors dtype is no number; None when all are.

    `raw` are whole elements from byte `start` of a tensor.

    Integers, and four- and six-bit floats, are always finite.
    """
    if dtype in _ONE_NAN:
        return _found(np.frombuffer(raw, np.uint8) == _ONE_NAN[dtype], None, start)
    if dtype not in _CODES:
        return None
    unsigned, signed, first, infinity = _CODES[dtype]
    codes = np.frombuffer(raw, unsigned)
    sign = 1 << (codes.itemsize * 8 - 1)
    if not codes.size or (codes.view(signed).max() < first and codes.max() < sign | first):
        return None
    size = codes & unsigned(sign - 1)
    infinite = None if infinity is None else size == unsigned(infinity)
    return _found(size >= unsigned(first), infinite, start // codes.itemsize)


def _found(bad: Array, infinite: Array | None, start: int) -> NotFinite | None:
    total = int(np.count_nonzero(bad))
    if not total:
        return None
    infinities = 0 if infinite is None else int(np.count_nonzero(infinite))
    return NotFinite(total - infinities, infinities, start + int(bad.argmax()))
