from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagdeploy.evals.shape import is_scored, misfit

GOOD = {
    "id": 7,
    "usage": {"prompt_tokens": 3, "prompt_tokens_details": None},
    "prompt_token_ids": None,
    "choices": [{"message": {"content": None, "reasoning": "so"}, "logprobs": None}],
}


def test_nulls_and_fields_of_others_fit() -> None:
    assert misfit(GOOD) == ""
    assert misfit({}) == ""


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ([1], "answer"),
        ({"choices": 3}, "answer.choices"),
        ({"choices": [1]}, "answer.choices[0]"),
        ({"choices": [None]}, "answer.choices"),
        ({"choices": [{"message": {"content": 5}}]}, "answer.choices[0].message.content"),
        ({"usage": 7}, "answer.usage"),
        ({"usage": {"prompt_tokens": "many"}}, "answer.usage.prompt_tokens"),
        ({"prompt_token_ids": [1, "2"]}, "answer.prompt_token_ids[1]"),
    ],
)
def test_the_field_that_does_not_fit_is_named(body: Any, where: str) -> None:
    assert misfit(body) == where


@pytest.mark.parametrize(
    ("entry", "scored"),
    [
        ({"5": {"logprob": -0.5, "rank": 1}}, True),
        ({"5": {"logprob": None}}, True),
        ({}, False),
        (None, False),
        ({"5": 3}, False),
        ({"x": {"logprob": -1.0}}, False),
        ({"5": {"logprob": "NaN"}}, False),
    ],
)
def test_a_scored_position(entry: Any, scored: bool) -> None:
    assert is_scored(entry) is scored


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["choices", "message", "content", "usage", "prompt_tokens"]), inner
    ),
)  # fmt: skip


@given(JSON)
def test_no_answer_is_too_odd_to_be_judged(body: Any) -> None:
    where = misfit(body)
    if not where and body is not None:
        choices = body.get("choices") or [{}]
        assert isinstance((choices[0].get("message") or {}).get("content") or "", str)
