import asyncio
import time

import pytest

from evals.stub_endpoint import Stub, serving
from flagdeploy.config.secret import Secret
from flagdeploy.errors import EvalError
from flagdeploy.evals.client import Client, Endpoint, Patience, Reply, base_url, run

QUICK = Patience(attempts=3, first_pause_s=0.01, idle_s=0.3)
CHAT = {"model": "stub", "messages": [{"role": "user", "content": "x"}], "max_tokens": 9}


def post(stub: Stub, times: int = 1, patience: Patience = QUICK) -> list[Reply]:
    async def work() -> list[Reply]:
        async with Client(Endpoint(stub.url), patience=patience) as client:
            return [await client.post("/chat/completions", CHAT) for _ in range(times)]

    return run(work())


@pytest.mark.parametrize("fault", [429, 500, 503, "disconnect", "hang"])
def test_passing_faults_are_tried_again(fault: int | str) -> None:
    with serving(Stub(faults=[fault])) as stub:
        (reply,) = post(stub)
    assert (reply.status, reply.attempts) == ("ok", 2)


def test_a_lasting_fault_ends_as_a_reply_that_says_so() -> None:
    with serving(Stub(faults=[500, 500, 500])) as stub:
        (reply,) = post(stub)
    assert (reply.status, reply.http, reply.attempts) == ("error", 500, 3)
    assert reply.error == 'HTTP 500: {"error": "fault"}'


def test_silence_ends_as_a_timeout() -> None:
    with serving(Stub(faults=["hang"] * 2)) as stub:
        (reply,) = post(stub, patience=Patience(attempts=2, first_pause_s=0.01, idle_s=0.1))
    assert (reply.status, reply.http) == ("timeout", None)


def test_a_refused_request_is_not_tried_again() -> None:
    with serving(Stub(faults=[400])) as stub:
        (reply,) = post(stub)
    assert (reply.status, reply.http, reply.attempts) == ("refused", 400, 1)


def test_retry_after_is_honoured() -> None:
    with serving(Stub(faults=[429], fault_headers={"Retry-After": "1"})) as stub:
        start = time.monotonic()
        (reply,) = post(stub)
    assert reply.status == "ok"
    assert time.monotonic() - start >= 1.0


def test_an_endpoint_that_is_gone_ends_the_work() -> None:
    with serving(Stub()) as stub:
        pass
    with pytest.raises(EvalError, match="12 requests in a row failed, the last after 1 attempts"):
        post(stub, times=20, patience=Patience(attempts=1))


def test_no_more_than_the_given_number_are_in_flight() -> None:
    flying, most = 0, 0

    class Counting(Client):
        async def _once(self, *args: object) -> object:  # type: ignore[override]
            nonlocal flying, most
            flying += 1
            most = max(most, flying)
            await asyncio.sleep(0.01)
            flying -= 1
            return "ok", 200, {}, None, None

    async def work() -> None:
        async with Counting(Endpoint("http://h"), concurrency=3) as client:
            await asyncio.gather(*(client.post("/x", {}) for _ in range(12)))

    run(work())
    assert most == 3


def test_the_key_travels_in_the_header_and_nowhere_else() -> None:
    with serving(Stub()) as stub:

        async def work() -> Reply:
            endpoint = Endpoint(stub.url, api_key=Secret("canary"))
            assert "canary" not in repr(endpoint)
            async with Client(endpoint) as client:
                return await client.post("/chat/completions", CHAT)

        reply = run(work())
    assert stub.authorization == {"Bearer canary"}
    assert "canary" not in repr(reply)


def test_work_runs_inside_a_running_loop_too() -> None:
    async def notebook() -> int:
        async def inner() -> int:
            return 7

        return run(inner())

    assert asyncio.run(notebook()) == 7


@pytest.mark.parametrize(
    "url", ["http://h:1", "http://h:1/v1/", "http://h:1/v1/chat/completions", "http://h:1/v1"]
)
def test_any_form_of_the_address_will_do(url: str) -> None:
    assert base_url(url) == "http://h:1/v1"
