import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from flagdeploy.evals.client import run
from flagdeploy.evals.stream import read_stream


def read(*events: Any) -> tuple[dict[str, Any], float | None]:
    async def lines() -> AsyncIterator[bytes]:
        for event in events:
            if isinstance(event, bytes):
                yield event
            else:
                yield b"data: " + json.dumps(event).encode() + b"\n"
                yield b"\n"

    return run(read_stream(lines()))


def chunk(finish_reason: str | None = None, **delta: str | None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


DONE = b"data: [DONE]\n"
USAGE = {"prompt_tokens": 3, "completion_tokens": 2}


def test_pieces_become_the_body_of_a_whole_reply() -> None:
    body, _ = read(
        chunk(role="assistant", content=""),
        b": keep-alive\n",
        chunk(reasoning="h"),
        chunk(reasoning_content="m"),
        chunk(content="4"),
        chunk(content="2"),
        chunk("stop"),
        {"choices": [], "usage": USAGE},
        DONE,
    )
    assert body == {
        "choices": [{"message": {"content": "42", "reasoning": "hm"}, "finish_reason": "stop"}],
        "usage": USAGE,
    }


def test_the_role_alone_is_not_the_first_text() -> None:
    _, first = read(chunk(role="assistant"), chunk("stop", content=""), DONE)
    assert first is None
    assert read(chunk(role="assistant", content=""), chunk("stop", content="4"), DONE)[1]
    assert read(chunk(reasoning="hm"), chunk("stop"), DONE)[1]


def test_a_stream_may_lack_the_usage_and_the_last_line() -> None:
    body, _ = read(chunk(content="4"), chunk("length"))
    assert body["usage"] is None
    assert body["choices"][0]["finish_reason"] == "length"
    assert read(chunk(content="4"), DONE)[0]["choices"][0]["finish_reason"] is None


@pytest.mark.parametrize(
    "events, error",
    [
        ((), "the stream ended before the reply did"),
        ((chunk(content="4"),), "the stream ended before the reply did"),
        ((chunk(content="4"), b"data: {\n"), "no JSON in the stream: b'{'"),
        (({"error": {"message": "OOM"}},), 'an error in the stream: {"error": {"message": "OOM"}}'),
        ((b"data: null\n",), "an error in the stream: null"),
        ((b"data: 7\n",), "in the stream, chunk has the wrong type"),
        (
            ({"choices": [{"delta": {"content": 4}}]},),
            "in the stream, chunk.choices[0].delta.content has the wrong type",
        ),
    ],
)
def test_half_a_stream_is_no_reply(events: tuple[Any, ...], error: str) -> None:
    with pytest.raises(ValueError) as caught:
        read(*events)
    assert str(caught.value) == error
