"""The native FP8 kernel: ``_fp8.c``, compiled at installation where there is a compiler.

Its results are those of `fp8.Dequantizer` bit for bit, about seven times as fast; ctypes releases
the GIL while it runs. Without it everything works the same, slower.
"""

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flagdeploy.checkpoint.fp8 import TARGETS, Dequantizer, target_dtype
from flagdeploy.errors import UsageError

LIBRARY = Path(__file__).with_name("_fp8.so")
VARIABLE = "FLAGDEPLOY_KERNEL"
_ARGUMENTS = [ctypes.c_void_p] * 3 + [ctypes.c_int64] * 6


def kernel() -> str:
    """The kernel in use: ``native`` where it is installed, else ``numpy``.

    $FLAGDEPLOY_KERNEL demands one of them; UsageError when that one is not to be had.
    """
    wanted = os.environ.get(VARIABLE)
    if wanted not in (None, "numpy", "native"):
        raise UsageError(f"{VARIABLE}={wanted}: no such kernel", "there are numpy and native")
    if wanted == "native" and not functions(LIBRARY):
        raise UsageError(
            f"{VARIABLE}=native: the native kernel is not installed",
            "install a C compiler, then flagdeploy again; or unset the variable",
        )
    return wanted or ("native" if functions(LIBRARY) else "numpy")


def dequantizer(to: str) -> "Dequantizer | NativeDequantizer":
    """A dequantizer into `to` (bf16, fp16, fp32) that runs on the kernel in use; one per thread."""
    if kernel() == "native":
        return NativeDequantizer(to, LIBRARY)
    return Dequantizer(to)


@cache
def functions(library: Path) -> dict[str, Any]:
    """The entry points of a compiled kernel by target; none when it is absent, does not load on
    this machine or is of another version (the number that ends the names)."""
    try:
        loaded = ctypes.CDLL(str(library))
        found = {to: loaded[f"flagdeploy_dequantize_{to}_1"] for to in TARGETS}
    except (OSError, AttributeError):
        return {}
    for function in found.values():
        function.argtypes, function.restype = _ARGUMENTS, ctypes.c_int64
    return found


class NativeDequantizer:
    """What `fp8.Dequantizer` is, run by the compiled kernel; `codes` and `out` C-contiguous."""

    def __init__(self, to: str, library: Path) -> None:
        self.dtype = target_dtype(to)
        self._function = functions(library)[to]

    def __call__(
        self,
        codes: NDArray[Any],
        scales: NDArray[Any],
        out: NDArray[Any],
        top: int,
        block: tuple[int, int],
    ) -> int:
        """As `fp8.Dequantizer.__call__`."""
        if not (codes.flags.c_contiguous and out.flags.c_contiguous):
            raise ValueError("codes and out must be C-contiguous")
        factors = np.ascontiguousarray(scales, np.float32)
        pointers = codes.ctypes.data, factors.ctypes.data, out.ctypes.data
        return int(self._function(*pointers, *codes.shape, top, *block, factors.shape[1]))
