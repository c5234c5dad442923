"""When requests are sent in an open loop: at random moments, whatever has come back by then.

MLPerf judges accuracy under load too (compliance test TEST07): a deployment that is right one
request at a time may be wrong when its batches are full.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator

LATE_S = 1.0  # seconds behind its moment from which a request counts as late


def poisson(rate: float, seed: int = 0) -> Iterator[float]:
    """Moments of a Poisson process of `rate` per second, in seconds from its start, without end.

    The gaps are exponential (LoadGen's server scenario) and never stretched so that the last
    request falls on a wanted time: that would make them something else than Poisson.
    """
    gaps, moment = random.Random(seed), 0.0
    while True:
        moment += gaps.expovariate(rate)
        yield moment


class OpenLoop:
    """Lets each request go at its moment, counted from the first; `late` of them went later.

    A late one does not move those after it: moments are absolute, so the rate is kept on average
    as long as there is a free slot. Where there is none, requests are late and counted.
    """

    def __init__(
        self,
        rate: float,
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.late = 0
        self.moments = poisson(rate, seed)
        self._clock, self._sleep = clock, sleep
        self._start: float | None = None

    async def until(self, moment: float) -> None:
        if self._start is None:
            self._start = self._clock()
        left = self._start + moment - self._clock()
        self.late += left < -LATE_S
        if left > 0:
            await self._sleep(left)
