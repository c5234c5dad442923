"""Open-loop arrivals: absolute moments of a true Poisson process, never rescaled."""

import asyncio
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagdeploy.evals.arrivals import OpenLoop, poisson


@given(rate=st.floats(0.01, 1e4), seed=st.integers(0, 2**32))
def test_moments_rise_and_a_seed_repeats_them(rate: float, seed: int) -> None:
    moments = list(islice(poisson(rate, seed), 50))
    assert all(a < b for a, b in zip([0.0, *moments], moments, strict=False))
    assert moments == list(islice(poisson(rate, seed), 50))


def test_counts_are_those_of_a_poisson_process() -> None:
    # In a second at rate 20: mean 20 and variance 20. Moments stretched so that the last request
    # falls on N / rate would count exactly N in that time, whatever the seed.
    counts = [sum(m < 1.0 for m in islice(poisson(20.0, seed), 100)) for seed in range(2000)]
    mean = sum(counts) / len(counts)
    variance = sum((count - mean) ** 2 for count in counts) / len(counts)
    assert mean == pytest.approx(20.0, abs=0.5)
    assert variance == pytest.approx(20.0, rel=0.15)


def test_a_sleep_that_is_too_long_does_not_move_those_after_it() -> None:
    now = 0.0

    async def oversleep(seconds: float) -> None:
        nonlocal now
        now += seconds + 0.3

    loop = OpenLoop(rate=1.0, clock=lambda: now, sleep=oversleep)

    async def work() -> list[float]:
        behind = []
        for moment in islice(poisson(1.0, seed=0), 200):
            await loop.until(moment)
            behind.append(now - moment)
        return behind

    behind = asyncio.run(work())
    assert max(behind) < 2.0  # sleeping from each to the next would end 60 s behind


def test_who_comes_late_is_counted_and_goes_at_once() -> None:
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    loop = OpenLoop(rate=1.0, clock=lambda: now, sleep=sleep)

    async def work() -> None:
        nonlocal now
        await loop.until(1.0)
        now = 10.0  # every slot was taken so long
        await loop.until(2.0)
        await loop.until(9.5)
        await loop.until(11.0)

    asyncio.run(work())
    assert (loop.late, now) == (1, 11.0)
