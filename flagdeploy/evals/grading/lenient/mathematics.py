"""Mathematical answers, as math-verify understands them. No bound in time: run it in the pool."""

from typing import Any

from flagdeploy.evals.grading.mlperf import prm800k
from flagdeploy.evals.grading.replies import last_boxed

LONGEST_LINE = 2000


def read_mathematics(text: str) -> str | None:
    """The last ``\\boxed{}``; without one the last line that holds a formula or a digit."""
    box = last_boxed(text)
    if box is not None:
        return box.strip()
    for line in reversed(text.splitlines()):
        if "$" in line or "\\" in line or any(character.isdigit() for character in line):
            return line.strip()[-LONGEST_LINE:]
    return None


def same_mathematics(given: str, gold: str) -> bool:
    """What MLPerf's rule accepts, and what math-verify does (the order matters to it)."""
    if prm800k.same_answer(given, gold):
        return True
    from math_verify import parse, verify

    # Its own limits are alarms of the main thread; the pool's hold for any code.
    expected: Any = parse(f"\\boxed{{{gold}}}", parsing_timeout=None)
    boxed: Any = parse(f"\\boxed{{{given}}}", parsing_timeout=None)
    if verify(expected, boxed, timeout_seconds=None):
        return True
    return bool(verify(expected, parse(given, parsing_timeout=None), timeout_seconds=None))
