"""What long work tells while it runs: the CLI shows it, `runs/<id>/events.jsonl` keeps it."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """One moment of a workflow.

    `stage` is a short stable word (``convert``, ``pull``, ``start``, ``wait``); `done` and `total`
    count in `unit` (``B`` for bytes, otherwise a plural noun) and turn the event into progress.
    """

    stage: str
    message: str
    host: str | None = None
    done: int | None = None
    total: int | None = None
    unit: str = ""


Report = Callable[[Event], None]


def silent(event: Event) -> None:
    """The default listener of the Python API."""
