"""The tolerant readers of letters and numbers."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.grading.cases import HOSTILE, REPLIES, cases
from flagdeploy.evals.grading.lenient.benchmarks import RULES, find_rule
from flagdeploy.evals.grading.lenient.letters import read_letter
from flagdeploy.evals.grading.lenient.numbers import read_number, same_number


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("GSM8K", "gsm8k"),
        ("MGSM-zh", "mgsm"),
        ("AIME 2025", "aime"),
        ("GPQA-Diamond", "gpqa"),
        ("MATH-500", "math500"),
        ("MMLU-Pro", "mmlupro"),
        ("mmlu_stem", "mmlu"),
        ("C-Eval", "ceval"),
        ("LiveCodeBench", "livecodebench"),
        ("HumanEval", "humaneval"),
    ],
)
def test_a_benchmark_is_known_in_any_spelling(name: str, key: str) -> None:
    assert find_rule(name) is RULES[key]


@given(letter=st.sampled_from("ABCDEFGHIJ"))
@pytest.mark.parametrize(
    "form",
    [
        "Answer: {}", "**Answer**: {}", "The answer is {}.", "the final answer is **({})**",
        "\\boxed{{{}}}", "$\\boxed{{\\text{{{}}}}}$", "\u7b54\u6848\uff1a{}",
        "\u6545\u9009{}\u3002", "A B C\n\nAnswer: \\boxed{{{}}}", "hm\n({})", "hm\n{}",
    ],
)  # fmt: skip
def test_every_way_to_name_a_letter(form: str, letter: str) -> None:
    assert read_letter(form.format(letter), "J") == letter


@given(value=st.integers(-(10**9), 10**9))
@pytest.mark.parametrize(
    "form",
    ["\\boxed{{{:d}}}", "so {:,d}.", "**Answer:** ${:d}$ (of 99)", "\u7b54\u6848\u662f{:d}\u3002",
     "\\boxed{{{:d}\\text{{ km}}}}", "#### {:d}"],
)  # fmt: skip
def test_every_way_to_name_a_number(form: str, value: int) -> None:
    prediction = read_number(form.format(value))
    assert prediction is not None and same_number(prediction, str(value))


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@given(reply=REPLIES)
def test_no_reply_breaks_a_reader(rule: Any, reply: str) -> None:
    prediction = rule.read(reply)
    if prediction is not None and callable(rule.equal):
        assert rule.equal(prediction, "5") in (True, False)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("reply", HOSTILE.values(), ids=HOSTILE)
def test_no_reply_takes_for_ever(reply: str) -> None:
    for rule in RULES.values():
        rule.read(reply)


def test_the_golden_cases_name_every_benchmark() -> None:
    named = {id(find_rule(case["benchmark"])) for case in cases("lenient.yaml")}
    assert named == {id(rule) for rule in RULES.values() if rule.equal is not None}
