"""Much at once, but not everything: requests on the event loop, blocking work in threads."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Generic, Self, TypeVar

T = TypeVar("T")


async def all_of(work: Iterable[Awaitable[T]], at_once: int = 256) -> list[T]:
    """Results of `work` in its order; the first exception cancels the rest and is raised as it is.

    No more than `at_once` are under way, and the next is only taken from `work` when one ends: a
    generator never makes more of them than that.
    """
    results: dict[int, T] = {}
    left = iter(enumerate(work))

    async def take_turns() -> None:
        for place, one in left:
            results[place] = await one

    tasks = [asyncio.ensure_future(take_turns()) for _ in range(at_once)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [results[place] for place in sorted(results)]


class InThreads(Generic[T]):
    """Blocking work in `at_once` threads beside the event loop; a context manager."""

    def __init__(self, at_once: int) -> None:
        self._pool = ThreadPoolExecutor(at_once)
        self._under_way: set[asyncio.Future[T]] = set()
        self._results: dict[int, T] = {}
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def hand_in(self, place: int, work: Callable[[], T]) -> None:
        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        self._under_way.add(future)
        future.add_done_callback(partial(self._note, place))

    def _note(self, place: int, future: "asyncio.Future[T]") -> None:
        self._under_way.discard(future)
        if future.cancelled():
            return
        if failure := future.exception():
            self._failure = self._failure or failure
        else:
            self._results[place] = future.result()

    def check(self) -> None:
        """Raise what some work raised."""
        if self._failure:
            raise self._failure

    async def results(self) -> list[T]:
        """By place, when all are there; raises what the work raised."""
        while self._under_way and not self._failure:
            await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
        self.check()
        return [self._results[place] for place in sorted(self._results)]
