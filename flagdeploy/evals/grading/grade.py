"""What became of one reply."""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How far the grading of a reply came; every one of them is counted, none is dropped."""

    PARSED = "parsed"
    UNPARSED = "unparsed"  # the reply ended by itself and holds no answer
    TRUNCATED = "truncated"  # it was cut, whatever was found in it
    ERROR = "error"  # the grader was stopped: too slow, too large
    NOT_GRADED = "not graded"  # nothing has looked whether the prediction is right


@dataclass(frozen=True)
class Grade:
    """`score` is 1.0 or 0.0, and None exactly when nothing was graded.

    `prediction` is None when no answer was found; `message` tells why for `error` and
    `not graded`.
    """

    prediction: str | None
    score: float | None
    status: Status = Status.PARSED
    message: str = ""


def status_of(prediction: str | None, finish_reason: str | None) -> Status:
    """Truncated comes first: what a cut reply seems to say is not what it would have said."""
    if finish_reason == "length":
        return Status.TRUNCATED
    return Status.UNPARSED if prediction is None else Status.PARSED
