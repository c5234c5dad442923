"""Log-probabilities against a plain transformers forward pass of the same weights in float32."""

import math
from typing import Any

import pytest

from server.running_server import RunningServer

TOLERANCE = 1e-4
PROMPT = "The quick brown fox jumps over the lazy dog: 3 + 4 ="


def log_probabilities(reference: Any, ids: list[int]) -> Any:
    """[T, V] of the reference model: row t is the distribution of token t + 1."""
    import torch

    with torch.inference_mode():
        return reference(torch.tensor([ids])).logits[0].log_softmax(-1)


def check_entry(entry: dict[str, Any], row: Any, token: int, k: int) -> None:
    """vLLM's id-to-logprob dictionary of one position against the reference's row."""
    top = row.topk(k)
    assert set(entry) == {str(token), *map(str, top.indices.tolist())}
    for key, reported in entry.items():
        value = row[int(key)].item()
        assert reported["logprob"] == pytest.approx(value, abs=TOLERANCE)
        assert reported["rank"] == (row > value).sum().item() + 1


def test_generated_logprobs_and_greedy_choice(server: RunningServer, reference: Any) -> None:
    answer = server.complete(
        PROMPT,
        max_tokens=40,
        temperature=0,
        logprobs=3,
        return_token_ids=True,
        return_tokens_as_token_ids=True,
    )
    choice = answer["choices"][0]
    prompt, output = choice["prompt_token_ids"], choice["token_ids"]
    assert len(output) == 40 and choice["finish_reason"] == "length"
    rows = log_probabilities(reference, prompt + output)[len(prompt) - 1 : -1]
    assert output == rows.argmax(-1).tolist()
    report = choice["logprobs"]
    assert report["tokens"] == [f"token_id:{token}" for token in output]
    for token, value, top, row in zip(
        output, report["token_logprobs"], report["top_logprobs"], rows, strict=True
    ):
        assert value == pytest.approx(row[token].item(), abs=TOLERANCE)
        best = row.topk(3)
        assert list(top) == [f"token_id:{index}" for index in best.indices.tolist()]
        assert list(top.values()) == pytest.approx(best.values.tolist(), abs=TOLERANCE)


@pytest.mark.parametrize("length", [1, 2, 60, 500])
def test_prompt_logprobs(server: RunningServer, reference: Any, length: int) -> None:
    ids = [4 + 32 + (7 * index * index) % 90 for index in range(length)]
    answer = server.complete(ids, max_tokens=1, temperature=0, prompt_logprobs=4)
    entries = answer["choices"][0]["prompt_logprobs"]
    rows = log_probabilities(reference, ids)
    assert len(entries) == length and entries[0] is None
    for entry, row, token in zip(entries[1:], rows, ids[1:], strict=False):
        check_entry(entry, row, token, 4)


def test_prompt_logprobs_of_a_chat(server: RunningServer, reference: Any) -> None:
    answer = server.chat("2 + 2", max_tokens=1, prompt_logprobs=2, return_token_ids=True)
    ids, entries = answer["prompt_token_ids"], answer["prompt_logprobs"]
    assert len(entries) == len(ids) == answer["usage"]["prompt_tokens"]
    rows = log_probabilities(reference, ids)
    for entry, row, token in zip(entries[1:], rows, ids[1:], strict=False):
        check_entry(entry, row, token, 2)


def test_echo_scores_the_prompt_in_openai_shape(server: RunningServer, reference: Any) -> None:
    body = {"max_tokens": 0, "echo": True, "logprobs": 2, "return_tokens_as_token_ids": True}
    answer = server.complete("one two", **body)
    choice = answer["choices"][0]
    assert choice["text"] == "one two"
    assert answer["usage"]["completion_tokens"] == 0
    report = choice["logprobs"]
    ids = [int(token.removeprefix("token_id:")) for token in report["tokens"]]
    assert ids == server.post("/tokenize", prompt="one two")["tokens"]
    assert report["token_logprobs"][0] is None and report["top_logprobs"][0] is None
    rows = log_probabilities(reference, ids)
    expected = [row[token].item() for row, token in zip(rows, ids[1:], strict=False)]
    assert report["token_logprobs"][1:] == pytest.approx(expected, abs=TOLERANCE)
    # The text begins after <bos>, which the tokens include.
    assert report["text_offset"] == [0, *range(len("<bos>"), len("<bos>one two"))]


def test_echo_continues_into_the_output(server: RunningServer) -> None:
    plain = server.complete(PROMPT, max_tokens=5, temperature=0, logprobs=1)["choices"][0]
    echoed = server.complete(PROMPT, max_tokens=5, temperature=0, logprobs=1, echo=True)
    choice = echoed["choices"][0]
    assert choice["text"] == PROMPT + plain["text"]
    values = choice["logprobs"]["token_logprobs"]
    assert len(values) == echoed["usage"]["total_tokens"]
    assert values[-5:] == pytest.approx(plain["logprobs"]["token_logprobs"], abs=TOLERANCE)


def test_chat_logprobs(server: RunningServer, reference: Any) -> None:
    body = {"max_tokens": 6, "temperature": 0, "logprobs": True, "top_logprobs": 2}
    answer = server.chat("hi", **body, return_token_ids=True)
    ids = answer["choices"][0]["token_ids"]
    rows = log_probabilities(reference, answer["prompt_token_ids"] + ids)[-len(ids) - 1 : -1]
    for entry, row, token in zip(
        answer["choices"][0]["logprobs"]["content"], rows, ids, strict=True
    ):
        assert entry["logprob"] == pytest.approx(row[token].item(), abs=TOLERANCE)
        assert bytes(entry["bytes"]).decode() == entry["token"]
        best = row.topk(2).values.tolist()
        values = [top["logprob"] for top in entry["top_logprobs"]]
        assert values == pytest.approx(best, abs=TOLERANCE)


def test_sampled_tokens_report_raw_logprobs(server: RunningServer, reference: Any) -> None:
    answer = server.complete(
        PROMPT, max_tokens=8, temperature=0.5, top_k=3, seed=1, logprobs=0, return_token_ids=True
    )
    choice = answer["choices"][0]
    ids = choice["token_ids"]
    rows = log_probabilities(reference, choice["prompt_token_ids"] + ids)[-len(ids) - 1 : -1]
    expected = [row[token].item() for row, token in zip(rows, ids, strict=True)]
    assert choice["logprobs"]["token_logprobs"] == pytest.approx(expected, abs=TOLERANCE)
    assert all((row > value).sum() < 3 for row, value in zip(rows, expected, strict=True))
    assert math.isfinite(sum(expected))
