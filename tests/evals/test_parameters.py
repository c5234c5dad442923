"""What an endpoint makes of the parameters of a request."""

from evals.observed import baseline
from flagdeploy.evals.parameters import described


def test_what_is_observed() -> None:
    found = baseline()
    assert [row["ends"] for row in found["asked"]] == [False] * 3 + [True] * 6
    assert [row["finish_reason"] for row in found["greedy"]] == ["length"] * 3 + ["stop"] * 6
    assert {row["off_top"] for row in found["greedy"]} == {0}
    assert found["repeated"] == [True] * 3
    assert min(found["hot_texts"]) > 1
    assert found["narrow"] == [True] * 3
    assert found["stop"] == [{"outcome": "cut", "finish_reason": "stop"}] * 3
    assert found["max_tokens"] == {"asked": 5, "completion_tokens": 5, "finish_reason": "length"}
    assert (found["n"], found["seed"], found["top_logprobs"]) == (2, "repeats", 20)
    assert (found["unknown_model"], found["beyond_context"]) == ("refused", "refused")
    assert (found["model"], found["max_model_len"], found["usage"]) == ("stub", 4096, True)


def test_what_a_reader_is_told() -> None:
    first, second, third = described({**baseline(), "hot_texts": [4, 3, None]})
    assert first == "temperature 0 repeats 3 of 3 replies, 1.5 gives 4/3/None texts of 4"
    assert second == "stop: cut; max_tokens 5: 5 tokens, ends as length"
    assert third == (
        "n 2, seed repeats, top logprobs 20, usage True, model stub, unknown model refused, "
        "max model len 4096"
    )
