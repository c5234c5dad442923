"""Triton's cache of compiled kernels, with a count of what this process put into it.

Trials share one cache, whose folder therefore also grows while a trial itself hangs.
"""

import os
from importlib import import_module
from typing import Any

try:
    _Files = import_module("triton.runtime.cache").FileCacheManager
except Exception:  # a broken one is told by what needs it
    _Files = None

VARIABLE = "TRITON_CACHE_MANAGER"
"""MODULE:CLASS by which Triton keeps its kernels (triton/knobs.py)."""
puts = 0


class Counted(_Files or object):  # type: ignore[misc]
    """Triton's own, counting."""

    def put(self, *arguments: Any, **options: Any) -> Any:
        global puts
        puts += 1
        return super().put(*arguments, **options)


def count() -> bool:
    """From now on, unless Triton is missing or keeps its kernels by a class of the user's."""
    ours = f"{__name__}:{Counted.__name__}"
    return _Files is not None and os.environ.setdefault(VARIABLE, ours) == ours
