"""A grading process: one JSON job a line on stdin, one verdict a line on stdout.

Started by pool.py as ``python -m flagdeploy.evals.grading.worker CPU_SECONDS BYTES``. The kernel
ends it when a job takes more processor time or memory than that, whatever code is running then;
processor time, so that a busy machine changes no grade.
"""

import contextlib
import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

COMPARISONS = ("prm800k", "math-verify")


def main() -> None:
    """Say what is missing (nothing: an empty list), then answer until stdin ends."""
    cpu_seconds, most_bytes = float(sys.argv[1]), int(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # it would be written at every timeout
    missing = _missing()
    _say(answers, missing)
    if missing:
        return
    _limit(resource.RLIMIT_AS, most_bytes)
    compare = _comparisons()
    for line in sys.stdin:
        with _processor_time(cpu_seconds):
            _say(answers, _verdict(compare, json.loads(line)))


def _say(answers: Any, value: Any) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()


def _missing() -> list[str]:
    """Packages of the extra that are not installed; importing the others takes a second."""
    missing = []
    for name in ("sympy", "pylatexenc", "math_verify"):
        try:
            __import__(name)
        except ImportError:
            missing.append(name)
    return missing


def _comparisons() -> dict[str, Callable[[str, str], bool]]:
    from flagdeploy.evals.grading.lenient.mathematics import same_mathematics
    from flagdeploy.evals.grading.mlperf.prm800k import same_answer

    return dict(zip(COMPARISONS, (same_answer, same_mathematics), strict=True))


def _verdict(compare: dict[str, Callable[[str, str], bool]], job: dict[str, str]) -> Any:
    try:
        return {"equal": compare[job["rule"]](job["prediction"], job["gold"])}
    except MemoryError:
        return {"error": "ran out of memory"}
    except Exception as error:  # any text may break any library: that is told, with the item
        return {"error": f"{type(error).__name__}: {error}"[:300]}


@contextlib.contextmanager
def _processor_time(seconds: float) -> Any:
    """The kernel's limit on this process's processor time, `seconds` (rounded up) from now."""
    _limit(resource.RLIMIT_CPU, math.ceil(time.process_time() + seconds))
    yield
    _limit(resource.RLIMIT_CPU, resource.RLIM_INFINITY)


def _limit(what: int, value: int) -> None:
    """The soft limit, as far as the hard one lets it."""
    _, hard = resource.getrlimit(what)
    if hard != resource.RLIM_INFINITY:
        value = hard if value == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(what, (value, hard))


if __name__ == "__main__":
    main()
