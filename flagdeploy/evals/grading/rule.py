"""How one benchmark is graded: a reader, and what counts as equal."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """`read` finds the prediction in a text, in linear time.

    `equal` compares it with the gold answer. A string names a comparison of worker.py instead,
    which has no bound in time and runs in the pool. None: it would have to be run (code).
    """

    read: Callable[[str], str | None]
    equal: Callable[[str, str], bool] | str | None
