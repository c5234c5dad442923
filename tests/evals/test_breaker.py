from collections.abc import Iterable

import pytest

from flagdeploy.errors import EvalError
from flagdeploy.evals.breaker import Breaker
from flagdeploy.evals.client import Reply, run


def passed(ends: Iterable[str], pause_s: float = 0.0) -> tuple[list[str], str]:
    """Requests that end as told, one after the other: what came back, and the error at the end."""
    statuses: list[str] = []

    async def work() -> str:
        breaker = Breaker("http://h/v1", pause_s)
        for end in ends:

            async def request(status: str = end) -> Reply:
                return Reply(status, 500, None, "HTTP 500: no", 6, 0.0, 1.0)

            try:
                statuses.append((await breaker.run(request)).status)
            except EvalError as error:
                return str(error)
        return ""

    return statuses, run(work())


def test_a_tenth_of_failures_is_tolerated_for_ever() -> None:
    ends = (["ok"] * 9 + ["error"]) * 100
    assert passed(ends) == (ends, "")


def test_refusals_are_answers() -> None:
    ends = ["refused"] * 100
    assert passed(ends) == (ends, "")


def test_after_more_failures_one_request_decides() -> None:
    ends = ["ok"] * 60 + ["error"] * 6
    assert passed([*ends, "ok", *["ok"] * 9]) == ([*ends, *["ok"] * 10], "")
    assert passed([*ends, "timeout", "ok"]) == (
        [*ends, "timeout"],
        "http://h/v1: 6 of the last 50 requests failed for good, and so did one more after a pause "
        "of 0 s; the last, tried 6 times: HTTP 500: no",
    )


def test_an_endpoint_that_fails_every_other_time_is_given_up() -> None:
    statuses, error = passed(["ok", "error"] * 100)
    assert len(statuses) < 50
    assert error == (
        "http://h/v1: 6 of the last 11 requests failed for good, also after two pauses of 0 s; "
        "the last, tried 6 times: HTTP 500: no"
    )


def test_bad_hours_far_apart_are_survived() -> None:
    ends = (["error"] * 6 + ["ok"] * 120) * 10
    assert passed(ends) == (ends, "")


def test_nothing_is_sent_beside_the_probe() -> None:
    import asyncio

    flying: list[int] = []

    async def work() -> None:
        breaker = Breaker("h", 0.01)
        for _ in range(6):
            await breaker.run(lambda: ended("error"))
        await asyncio.gather(*(breaker.run(probe) for _ in range(5)))

    async def ended(status: str) -> Reply:
        return Reply(status, None, None, None, 1, 0.0, 1.0)

    async def probe() -> Reply:
        flying.append(len(flying))
        if len(flying) == 1:
            await asyncio.sleep(0.05)
            assert flying == [0]
        return await ended("ok")

    run(work())
    assert len(flying) == 5


@pytest.mark.parametrize("end", ["error", "timeout"])
def test_requests_that_wait_for_the_probe_are_not_sent_when_it_fails(end: str) -> None:
    import asyncio

    sent = 0

    async def request() -> Reply:
        nonlocal sent
        sent += 1
        await asyncio.sleep(0)
        return Reply(end, None, None, "gone", 1, 0.0, 1.0)

    async def work() -> list[Reply | BaseException]:
        breaker = Breaker("h", 0.01)
        for _ in range(6):
            await breaker.run(request)
        return await asyncio.gather(
            *(breaker.run(request) for _ in range(5)), return_exceptions=True
        )

    ends = run(work())
    assert sent == 7
    assert [type(one) for one in ends] == [Reply, *[EvalError] * 4]
