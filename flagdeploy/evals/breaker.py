"""A circuit breaker: an endpoint that fails is left alone for a while, then given up."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from flagdeploy.errors import EvalError

if TYPE_CHECKING:
    from flagdeploy.evals.client import Reply

WINDOW = 50  # finished requests that are looked back on
TOLERATED = 5  # of them may have failed for good: 10%
TRIPS = 3  # with fewer than WINDOW requests between them: it answers, but not well enough


class Breaker:
    """Lets requests through until more than TOLERATED of the last WINDOW failed for good.

    Then none is sent for `pause_s`, and the next one goes alone as a probe. When that fails too,
    or at the third such trip in short order, the endpoint is given up.
    """

    def __init__(self, name: str, pause_s: float) -> None:
        self._name = name
        self._pause_s = pause_s
        self._failed: deque[bool] = deque(maxlen=WINDOW)
        self._open = False  # as in an electric circuit: nothing passes
        self._trips = 0
        self._given_up: EvalError | None = None
        self._one_probe = asyncio.Lock()

    async def run(self, request: Callable[[], Awaitable["Reply"]]) -> "Reply":
        """The reply of `request`, late if need be; raises EvalError once the endpoint is given up.

        Every request that was sent ends with its reply, so none is lost to the giving up.
        """
        while self._open:
            async with self._one_probe:
                if self._given_up:
                    raise self._given_up
                if self._open:
                    return await self._probe(request)
        reply = await request()
        self._count(reply)
        return reply

    def _count(self, reply: "Reply") -> None:
        self._failed.append(not reply.answered)
        if self._open:
            return  # it was under way when the breaker opened
        if self._failed.count(True) > TOLERATED:
            self._open = True
            self._trips += 1
            if self._trips == TRIPS:
                self._give_up("also after two pauses", reply)
        elif len(self._failed) == WINDOW:
            self._trips = 0

    async def _probe(self, request: Callable[[], Awaitable["Reply"]]) -> "Reply":
        await asyncio.sleep(self._pause_s)
        reply = await request()
        if reply.answered:
            self._failed.clear()
            self._open = False
        else:
            self._give_up("and so did one more after a pause", reply)
        return reply

    def _give_up(self, then: str, last: "Reply") -> None:
        self._given_up = EvalError(
            f"{self._name}: {self._failed.count(True)} of the last {len(self._failed)} requests "
            f"failed for good, {then} of {self._pause_s:g} s; the last, tried {last.attempts} "
            f"times: {last.error}",
            hint="look at `flagdeploy status` and `flagdeploy logs`; "
            "answers already recorded are kept and the same command goes on from there",
        )
