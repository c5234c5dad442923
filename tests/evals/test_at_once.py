import asyncio
from collections.abc import Iterator

import pytest

from flagdeploy.evals.at_once import InThreads, all_of
from flagdeploy.evals.client import run


def test_results_come_in_order_and_work_is_made_as_it_is_needed() -> None:
    made, ended, most = 0, 0, 0

    async def one(number: int) -> int:
        nonlocal ended
        await asyncio.sleep(0.001 * (7 * number % 5))
        ended += 1
        return number

    def work() -> Iterator[asyncio.Future[int]]:
        nonlocal made, most
        for number in range(1000):
            made += 1
            most = max(most, made - ended)
            yield one(number)  # type: ignore[misc]

    assert run(all_of(work(), at_once=3)) == list(range(1000))
    assert most == 3


def test_the_first_exception_ends_the_rest() -> None:
    ended: list[int] = []

    async def one(number: int) -> None:
        try:
            await asyncio.sleep(0 if number == 1 else 30)
            raise KeyError(number)
        finally:
            ended.append(number)

    with pytest.raises(KeyError):
        run(all_of((one(number) for number in range(100)), at_once=4))
    assert sorted(ended) == [0, 1, 2, 3]


def test_work_in_threads_comes_back_in_the_order_of_its_places() -> None:
    async def work() -> list[int]:
        with InThreads[int](2) as threads:
            for place in (2, 0, 1):
                threads.hand_in(place, lambda place=place: place * 10)  # type: ignore[misc]
            return await threads.results()

    assert run(work()) == [0, 10, 20]


def test_what_failed_in_a_thread_is_raised() -> None:
    async def work() -> None:
        with InThreads[int](1) as threads:
            threads.check()
            threads.hand_in(0, lambda: 1 // 0)
            with pytest.raises(ZeroDivisionError):
                await threads.results()
            threads.check()

    with pytest.raises(ZeroDivisionError):
        run(work())
