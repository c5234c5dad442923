"""The same work on several hosts at once."""

import queue
import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

from flagdeploy.errors import FlagdeployError, HostsFailed

K = TypeVar("K")
T = TypeVar("T")
WIDTH = 32


def attempt(
    items: Mapping[str, K], work: Callable[[K], T]
) -> tuple[dict[str, T], dict[str, Exception]]:
    """Call `work` for every item in threads; results and FlagdeployErrors by the item's key.

    Any other exception is a fault of ours and is raised. The threads are daemons: a Ctrl-C in the
    caller is not held up by a host that hangs.
    """
    todo: queue.SimpleQueue[tuple[str, K]] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[str, T | None, Exception | None]] = queue.SimpleQueue()

    def serve() -> None:
        while True:
            try:
                key, item = todo.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((key, work(item), None))
            except Exception as error:
                done.put((key, None, error))

    for key, item in items.items():
        todo.put((key, item))
    for _ in range(min(WIDTH, len(items))):
        threading.Thread(target=serve, daemon=True).start()
    results: dict[str, T] = {}
    failures: dict[str, Exception] = {}
    for _ in items:
        key, result, error = done.get()
        if error is None:
            results[key] = result  # type: ignore[assignment]
        elif isinstance(error, FlagdeployError):
            failures[key] = error
        else:
            raise error
    return (
        {key: results[key] for key in items if key in results},
        {key: failures[key] for key in items if key in failures},
    )


def each(items: Mapping[str, K], work: Callable[[K], T]) -> dict[str, T]:
    """As `attempt`, but every host has to succeed: raises its error, or HostsFailed with all."""
    results, failures = attempt(items, work)
    raise_failures(failures)
    return results


def raise_failures(failures: Mapping[str, Exception]) -> None:
    if len(failures) == 1:
        raise next(iter(failures.values()))
    if failures:
        hints = [e.hint for e in failures.values() if isinstance(e, FlagdeployError) and e.hint]
        raise HostsFailed(failures, "\n".join(dict.fromkeys(hints)) or None)
