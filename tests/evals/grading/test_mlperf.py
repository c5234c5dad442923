"""The MLPerf reference's parsers and scores, case by case."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.grading.cases import HOSTILE, REPLIES, cases
from flagdeploy.errors import EvalError
from flagdeploy.evals.grading.mlperf.choice import last_answer, last_letter
from flagdeploy.evals.grading.mlperf.references import (
    REFERENCES,
    REPEATS,
    exact_match,
    find_rule,
    weighted_score,
)
from flagdeploy.evals.grading.mlperf.text import cleaned

RULES = {
    f"{reference} {name}": rule
    for reference, rules in REFERENCES.items()
    for name, rule in rules.items()
}


@pytest.mark.parametrize("case", cases("code.yaml"), ids=lambda case: case["reply"])
@pytest.mark.parametrize("reference", REFERENCES)
def test_code_blocks(reference: str, case: dict[str, Any]) -> None:
    rule = find_rule("livecodebench", reference)
    assert rule is not None and rule.read(cleaned(case["reply"])) == case[reference]


@pytest.mark.parametrize(
    ("dataset", "like"),
    [
        ("GPQA_diamond", "gpqa"),
        ("mmlu_pro", "mmlu_pro"),
        ("aime1983", "aime"),
        ("livecodebench_v6", "livecodebench"),
    ],
)
def test_a_data_set_gets_the_first_rule_that_its_name_contains(dataset: str, like: str) -> None:
    assert find_rule(dataset) is REFERENCES["deepseek-r1"][like]


def test_only_gpt_oss_grades_mmlu() -> None:
    assert find_rule("mmlu_stem") is None
    assert find_rule("mmlu_stem", "gpt-oss-120b") is not None


def test_an_unknown_reference_is_refused() -> None:
    with pytest.raises(EvalError) as raised:
        find_rule("gpqa", "gpt-oss")
    assert str(raised.value) == "MLPerf has no reference `gpt-oss` here"
    assert raised.value.hint == "did you mean `gpt-oss-120b`?"


def test_every_row_counts_in_the_exact_match() -> None:
    assert exact_match([1.0, 0.0, 1.0, 1.0]) == 75.0
    assert exact_match([]) == 0.0


def test_the_score_of_gpt_oss_weighs_each_question_once() -> None:
    rows = {"aime25": 30, "gpqa_diamond": 198, "livecodebench_v6": 1055}
    scores = {name: [1.0] * (n * REPEATS[name]) for name, n in rows.items()}
    assert weighted_score(scores) == 100.0
    scores["livecodebench_v6"] = [0.0] * 3165
    assert weighted_score(scores) == pytest.approx(100 * 228 / 1283)
    scores["aime25"] = [0.0] * 60 + [1.0] * 180
    assert weighted_score(scores) == pytest.approx(100 * (22.5 + 198) / 1283)
    with pytest.raises(EvalError, match="gpt-oss-120b has no data set `aime24`"):
        weighted_score({"aime24": [1.0]})


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@given(reply=REPLIES)
def test_no_reply_breaks_a_parser(rule: Any, reply: str) -> None:
    prediction = rule.read(cleaned(reply))
    if prediction is not None and callable(rule.equal):
        assert rule.equal(prediction, "5") in (True, False)


@given(
    st.lists(
        st.sampled_from(["ANSWER", "Answer", "FINAL", "final ", *"  \n:=()ABCDIJbi\u0131\u0130.x_"])
    )
)
@pytest.mark.parametrize("last", "DJ")
def test_the_fast_pattern_finds_what_the_rule_says(last: str, words: list[str]) -> None:
    text = "".join(words)
    rule = (  # as eval_accuracy.py writes it: the last match, upper case
        r"\b(?:ANSWER|FINAL\s*ANSWER)\b\s*[:=]?\s*(?:\(?\s*"
        rf"([A-{last}])\s*\)?)(?:\s*$|[^A-Za-z])"
    )
    for pattern, found in (
        (rule, last_answer(text, last)),
        (rf"\b([A-{last}])\b", last_letter(text, last)),
    ):
        letters = re.findall(pattern, text, re.IGNORECASE)
        assert found == (letters[-1].upper() if letters else None)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("reply", HOSTILE.values(), ids=HOSTILE)
def test_no_reply_takes_for_ever(reply: str) -> None:
    for rule in RULES.values():
        rule.read(cleaned(reply))
