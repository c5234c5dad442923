"""Requests to typed values; the refusals over HTTP stand in cases/server/bad_requests.yaml."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagdeploy.server import api_fields, protocol
from flagdeploy.server.protocol import ChatPrompt, Sampling, Shape
from flagdeploy.server.refusal import Refusal

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


def test_the_defaults_of_a_completion() -> None:
    request = protocol.completion_request({"prompt": "a"}, 20)
    assert request.prompts == ("a",) and request.add_special_tokens
    assert request.sampling == Sampling(max_tokens=16)
    assert request.shape == Shape()


def test_the_defaults_of_a_chat() -> None:
    request = protocol.chat_request({"messages": [{"role": "user", "content": "a"}]}, 20)
    assert request.prompt == ChatPrompt(messages=({"role": "user", "content": "a"},))
    assert request.sampling == Sampling() and request.shape == Shape()


def test_null_means_the_default() -> None:
    fields = dict.fromkeys(api_fields.COMPLETION)
    request = protocol.completion_request({**fields, "prompt": "a"}, 20)
    assert request == protocol.completion_request({"prompt": "a"}, 20)


def test_text_parts_are_joined_and_other_keys_kept() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "user", "content": parts, "name": "n"}, {"role": "assistant"}]
    prompt = protocol.chat_request({"messages": messages}, 20).prompt
    assert prompt.messages == (
        {"role": "user", "content": "ab", "name": "n"},
        {"role": "assistant", "content": ""},
    )


def test_chat_logprobs_become_a_count() -> None:
    def count(**fields: Any) -> int | None:
        body = {"messages": [{"role": "user", "content": "a"}], **fields}
        return protocol.chat_request(body, 20).sampling.logprobs

    assert count() is None
    assert count(logprobs=False) is None
    assert count(logprobs=True) == 0
    assert count(logprobs=True, top_logprobs=7) == 7


def test_max_completion_tokens_wins() -> None:
    body = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 3}
    assert protocol.chat_request(body, 20).sampling.max_tokens == 3
    asked = protocol.chat_request({**body, "max_completion_tokens": 5}, 20)
    assert asked.sampling.max_tokens == 5


def test_echo_with_logprobs_scores_the_prompt_but_does_not_report_it_twice() -> None:
    request = protocol.completion_request({"prompt": "a", "echo": True, "logprobs": 2}, 20)
    assert request.sampling.prompt_logprobs == 2
    assert request.shape.prompt_logprobs is None


@pytest.mark.parametrize("off", [0, -1])
def test_top_k_is_switched_off_by_0_and_by_minus_1(off: int) -> None:
    request = protocol.completion_request({"prompt": "a", "top_k": off}, 20)
    assert request.sampling.top_k == 0


@given(
    st.dictionaries(st.sampled_from([*api_fields.COMPLETION, *api_fields.CHAT, "x"]), JSON),
    st.data(),
)
def test_every_body_is_a_request_or_a_refusal(body: dict[str, Any], data: st.DataObject) -> None:
    parsers = [
        lambda value: protocol.completion_request(value, 20),
        lambda value: protocol.chat_request(value, 20),
        protocol.tokenize_request,
        protocol.detokenize_request,
    ]
    parse = data.draw(st.sampled_from(parsers))
    try:
        parse(body)
    except Refusal as refusal:
        assert refusal.status == 400 and refusal.message
