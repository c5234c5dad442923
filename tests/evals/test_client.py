import asyncio
import time
from dataclasses import replace

import pytest
from aiohttp import web

from evals.stub_endpoint import Stub, serving
from flagdeploy.config.secret import Secret
from flagdeploy.errors import EvalError
from flagdeploy.evals.address import base_url
from flagdeploy.evals.client import (
    Client,
    Endpoint,
    Patience,
    Reply,
    _Attempt,
    _failed,
    run,
)

QUICK = Patience(attempts=3, first_pause_s=0.01, longest_pause_s=0.01, idle_s=0.3, token_s=0.01)
CHAT = {"model": "stub", "messages": [{"role": "user", "content": "x"}], "max_tokens": 9}


def post(
    stub: Stub, times: int = 1, patience: Patience = QUICK, stream: bool = False
) -> list[Reply]:
    async def work() -> list[Reply]:
        async with Client(Endpoint(stub.url), patience=patience) as client:
            return [
                await client.post("/chat/completions", CHAT, stream=stream) for _ in range(times)
            ]

    return run(work())


PASSING = [408, 425, 429, 500, 502, 520, "disconnect", "reset", "hang", "half"]
PASSING += ["no json", "wrong types", "error inside"]


@pytest.mark.parametrize("fault", PASSING)
def test_passing_faults_are_tried_again(fault: int | str) -> None:
    with serving(Stub(faults=[fault])) as stub:
        (reply,) = post(stub)
    assert (reply.status, reply.attempts) == ("ok", 2)


def test_a_lasting_fault_ends_as_a_reply_that_says_so() -> None:
    with serving(Stub(faults=[500, 500, 500])) as stub:
        (reply,) = post(stub)
    assert (reply.status, reply.http, reply.attempts) == ("error", 500, 3)
    assert reply.error == 'HTTP 500: {"error": "fault"}'


def test_silence_ends_as_a_timeout_at_the_second_time() -> None:
    with serving(Stub(faults=["hang"] * 9)) as stub:
        (reply,) = post(stub, patience=replace(QUICK, attempts=6, idle_s=0.1))
    assert (reply.status, reply.http, reply.attempts) == ("timeout", None, 2)


def test_a_drip_of_bytes_does_not_keep_a_request_alive_for_ever() -> None:
    with serving(Stub(faults=["drip"] * 9)) as stub:
        (reply,) = post(stub, patience=replace(QUICK, total_s=0.5))
    assert reply.status == "timeout"


def test_a_reply_in_one_piece_may_be_silent_for_longer_than_a_stream() -> None:
    client = Client(Endpoint("http://h"), patience=Patience(idle_s=5, token_s=0.1))
    assert client._timeout({"max_tokens": 1000}).sock_read == 105
    assert client._timeout({"max_tokens": 1000, "stream": True}).sock_read == 5
    assert client._timeout({}).sock_read == 5


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


NOON = "Sun, 06 Nov 1994 12:00:00 GMT"


@pytest.mark.parametrize(
    "headers, wait",
    [
        ({}, 0),
        ({"Retry-After": "120"}, 120),
        ({"Retry-After": "999999999"}, 600),
        ({"Retry-After": "Sun, 06 Nov 1994 12:00:30 GMT", "Date": NOON}, 30),
        ({"Retry-After": "Sun, 06 Nov 1994 11:59:30 GMT", "Date": NOON}, 0),
        ({"Retry-After": NOON}, 0),  # past, by our clock
        ({"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}, 600),
        ({"Retry-After": "soon"}, 0),
        ({"Retry-After": "-5"}, 0),
    ],
)
def test_both_forms_of_retry_after(headers: dict[str, str], wait: float) -> None:
    assert _failed(429, "", headers, Patience()).wait_s == wait


def test_pauses_are_random_between_nothing_and_twice_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[tuple[float, float]] = []

    def lowest(a: float, b: float) -> float:
        pauses.append((a, b))
        return 0.0

    monkeypatch.setattr("random.uniform", lowest)
    with serving(Stub(faults=[500] * 9)) as stub:
        post(stub, patience=Patience(attempts=6, longest_pause_s=3))
    assert pauses == [(0, 0.5), (0, 1), (0, 2), (0, 3), (0, 3)]


@pytest.mark.parametrize("http, status", [(400, "refused"), (404, "refused"), (403, "error")])
def test_a_gate_on_the_way_is_not_the_models_refusal(http: int, status: str) -> None:
    attempt = _failed(http, "no", {}, Patience())
    assert (attempt.status, attempt.again) == (status, False)


def test_an_endpoint_that_is_gone_ends_the_work() -> None:
    with serving(Stub()) as stub:
        pass
    with pytest.raises(EvalError) as error:
        post(stub, times=20, patience=replace(QUICK, attempts=1))
    assert str(error.value).startswith(
        f"{stub.url}: 6 of the last 6 requests failed for good, and so did one more after a pause "
        "of 0.01 s; the last, tried 1 times: ClientConnectorError: "
    )
    assert error.value.hint is not None
    assert error.value.hint.endswith("are kept and the same command goes on from there")


def test_no_more_than_the_given_number_are_in_flight() -> None:
    flying, most = 0, 0

    class Counting(Client):
        async def _once(self, *args: object) -> _Attempt:
            nonlocal flying, most
            flying += 1
            most = max(most, flying)
            await asyncio.sleep(0.01)
            flying -= 1
            return _Attempt("ok", 200, {})

    async def work() -> None:
        async with Counting(Endpoint("http://h"), concurrency=3) as client:
            await asyncio.gather(*(client.post("/x", {}) for _ in range(12)))

    run(work())
    assert most == 3


def test_a_streamed_reply_is_the_reply() -> None:
    with serving(Stub(lambda prompt: "\\boxed{1}", streams=True)) as stub:
        (streamed,) = post(stub, stream=True)
        (whole,) = post(stub)
        assert stub.seen[0]["stream_options"] == {"include_usage": True}
    assert streamed.body is not None and whole.body is not None
    for body in (streamed.body, whole.body):
        assert body["choices"][0]["message"]["content"] == "\\boxed{1}"
        assert body["choices"][0]["finish_reason"] == "stop"
        assert body["usage"] == {"prompt_tokens": 5, "completion_tokens": 9}
    assert streamed.first is not None and streamed.sent < streamed.first <= streamed.ended
    assert whole.first is None


def test_an_endpoint_that_refuses_to_stream_is_asked_without_from_then_on() -> None:
    with serving(Stub(strict=True)) as stub:
        replies = post(stub, times=3, stream=True)
        assert [body.get("stream", False) for body in stub.seen] == [True, False, False, False]
    assert {reply.status for reply in replies} == {"ok"}


def test_a_refused_question_says_nothing_of_streaming() -> None:
    with serving(Stub(streams=True, faults=[400, 400])) as stub:
        replies = post(stub, times=2, stream=True)
        assert [body.get("stream", False) for body in stub.seen] == [True, False, True]
    assert [reply.status for reply in replies] == ["refused", "ok"]


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


class Echo(Stub):
    """Sends back what it was sent, as some gateways do when they refuse."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.authorization.add(request.headers.get("Authorization", ""))
        return web.json_response({"error": dict(request.headers)}, status=400)


@pytest.mark.parametrize(
    "login, key, sent",
    [
        ("", Secret("a-canary"), "Bearer a-canary"),
        ("joe:a-can%40ry@", None, "Basic am9lOmEtY2FuQHJ5"),
        ("joe:a-can%40ry@", Secret("a-canary"), "Bearer a-canary"),
    ],
)
def test_what_shows_who_asks_is_in_no_reply(login: str, key: Secret | None, sent: str) -> None:
    with serving(Echo()) as stub:

        async def work() -> tuple[str, Reply]:
            endpoint = Endpoint(stub.url.replace("//", f"//{login}"), api_key=key)
            async with Client(endpoint, patience=QUICK) as client:
                return client.base, await client.post("/chat/completions", CHAT)

        base, reply = run(work())
    assert stub.authorization == {sent}
    assert base == stub.url
    assert f'"Authorization": "{sent.split()[0]} ***"' in str(reply.error)


def test_work_runs_inside_a_running_loop_too() -> None:
    async def notebook() -> int:
        async def inner() -> int:
            return 7

        return run(inner())

    assert asyncio.run(notebook()) == 7


@pytest.mark.parametrize(
    "url",
    [
        "http://h:1",
        "http://h:1/v1/",
        "http://h:1/v1/chat/completions",
        "http://h:1/v1",
        "http://joe:pass@h:1",
    ],
)
def test_any_form_of_the_address_will_do(url: str) -> None:
    assert base_url(url) == "http://h:1/v1"
