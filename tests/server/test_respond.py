"""A stream that breaks in the middle says so and ends properly."""

import asyncio
import json
from typing import Any

import torch
from aiohttp.test_utils import TestClient, TestServer

from flagdeploy.server.app import Service, make_app
from flagdeploy.server.batch import Batch
from flagdeploy.server.metrics import Metrics
from flagdeploy.server.model import LoadedModel
from server.scripted_forward import EOS, VOCABULARY, LetterTokens, ScriptedForward, crash, spoil


def ask(forward: ScriptedForward, **body: Any) -> tuple[int, str]:
    async def main() -> tuple[int, str]:
        metrics = Metrics()
        batch = Batch(forward, max_num_seqs=4, max_waiting=4, metrics=metrics)  # type: ignore[arg-type]
        loaded = LoadedModel(
            None,
            LetterTokens(VOCABULARY),  # type: ignore[arg-type]
            torch.device("cpu"),
            frozenset([EOS]),
            64,
        )
        service = Service(
            name="letters", loaded=loaded, batch=batch, metrics=metrics, max_logprobs=1
        )
        async with TestClient(TestServer(make_app(service))) as client:
            answer = await client.post("/v1/completions", json=body)
            status, text = answer.status, await answer.text()
        await batch.drain(0)
        return status, text

    return asyncio.run(main())


def test_a_stream_whose_logits_turn_non_finite_ends_with_an_error() -> None:
    status, text = ask(ScriptedForward(1, spoil), prompt=[1, 1], temperature=0, stream=True)
    *events, error, done, rest = text.split("\n\n")
    assert (status, done, rest) == (200, "data: [DONE]", "")
    parts = [json.loads(event.removeprefix("data: "))["choices"][0]["text"] for event in events]
    assert parts == ["dd"] or parts == ["d", "d"]
    assert json.loads(error.removeprefix("data: "))["error"]["message"] == "non-finite logits"


def test_a_model_that_crashes_is_a_500() -> None:
    status, text = ask(ScriptedForward(1, crash), prompt=[[2, 2], [1, 1]], temperature=0)
    assert status == 500
    assert json.loads(text)["error"]["message"] == "the model failed: RuntimeError"


def test_more_sequences_than_the_queue_holds_is_a_503() -> None:
    status, text = ask(ScriptedForward(), prompt=[2, 2], n=5)
    assert status == 503
    message = "the queue is full (4 sequences); try again"
    assert json.loads(text)["error"]["message"] == message
