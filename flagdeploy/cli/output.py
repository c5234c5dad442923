"""The one place that writes: results to stdout, everything else to stderr.

Colour and progress bars appear only on a terminal; `rich` is loaded only then.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flagdeploy.errors import FlagdeployError
from flagdeploy.records.events import Event, Report
from flagdeploy.records.sizes import duration, readable

# A rate over less time than this says nothing.
_RATE_AFTER_S = 2.0


class Output:
    """`json` turns results into JSON; `quiet` drops progress and notes."""

    def __init__(self) -> None:
        self.json = False
        self.quiet = False

    def result(self, text: str, data: Any = None) -> None:
        """The answer of a command: `text` for people, `data` under --json."""
        if self.json:
            import json

            text = json.dumps(data, indent=2, ensure_ascii=False)
        print(text, flush=True)

    def line(self, text: str, data: Any) -> None:
        """One of many lines of an answer: `text`, or `data` on one line under --json."""
        if self.json:
            import json

            text = json.dumps(data, ensure_ascii=False)
        print(text, flush=True)

    def note(self, text: str) -> None:
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def warning(self, text: str) -> None:
        print(f"warning: {text}", file=sys.stderr, flush=True)

    def error(self, error: FlagdeployError) -> None:
        print(f"error: {error}", file=sys.stderr)
        if error.hint:
            print(f"\nhint: {error.hint}", file=sys.stderr)

    @contextmanager
    def progress(self) -> Iterator[Report]:
        """A listener for a workflow's events: bars on a terminal, plain lines elsewhere."""
        if self.quiet:
            yield lambda event: None
        elif sys.stderr.isatty():
            with _bars() as report:
                yield report
        else:
            yield _Lines().show


class _Lines:
    """Progress as lines: every message once, and at most one line for each tenth of a count."""

    def __init__(self) -> None:
        self.shown: dict[tuple[str, str | None], int] = {}
        self.rates: dict[tuple[str, str | None], _Rate] = {}

    def show(self, event: Event) -> None:
        host = f"[{event.host}] " if event.host else ""
        if not event.total:
            print(f"{host}{event.message}", file=sys.stderr, flush=True)
            return
        tenth = 10 * (event.done or 0) // event.total
        key = (event.stage, event.host)
        if key not in self.rates:
            self.rates[key] = _Rate(event)
        rate = self.rates[key].text(event)
        if self.shown.get(key, -1) != tenth:
            self.shown[key] = tenth
            print(f"{host}{event.message} {amount(event)}{rate}", file=sys.stderr, flush=True)


class _Rate:
    """Bytes per second since an event, and the time that is left; of other units nothing."""

    def __init__(self, first: Event) -> None:
        self.began, self.before = time.monotonic(), first.done or 0

    def text(self, event: Event) -> str:
        """Empty at the beginning and at the end."""
        seconds = time.monotonic() - self.began
        moved, left = (event.done or 0) - self.before, (event.total or 0) - (event.done or 0)
        if event.unit != "B" or moved <= 0 or left <= 0 or seconds < _RATE_AFTER_S:
            return ""
        rate = moved / seconds
        return f", {readable(int(rate))}/s, {duration(left / rate)} left"


def amount(event: Event) -> str:
    """`done` of `total` in the event's unit, bytes in decimal units."""
    if event.unit == "B":
        return f"{readable(event.done or 0)} of {readable(event.total or 0)}"
    return f"{event.done} of {event.total} {event.unit}".rstrip()


@contextmanager
def _bars() -> Iterator[Report]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn())
    amounts = TextColumn("{task.fields[amount]}")
    tasks: dict[tuple[str, str | None], Any] = {}
    rates: dict[tuple[str, str | None], _Rate] = {}
    with Progress(
        *columns, amounts, TimeElapsedColumn(), console=Console(stderr=True), transient=True
    ) as bars:

        def report(event: Event) -> None:
            # Lines of other programs hold brackets, which rich would take for its markup.
            text = escape(f"[{event.host}] {event.message}" if event.host else event.message)
            if not event.total:
                bars.console.print(text, highlight=False)
                return
            key = (event.stage, event.host)
            if key not in tasks:
                tasks[key] = bars.add_task(text, total=event.total, amount="")
                rates[key] = _Rate(event)
            shown = amount(event) + rates[key].text(event)
            bars.update(tasks[key], completed=event.done or 0, description=text, amount=shown)

        yield report


out = Output()
