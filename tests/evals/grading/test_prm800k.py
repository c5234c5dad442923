"""Equality of mathematical answers: prm800k's rules, and where the lenient grader differs."""

from typing import Any

import pytest
from hypothesis import given

from evals.grading.cases import REPLIES, cases
from flagdeploy.evals.grading.mlperf import hendrycks, prm800k

CASES = cases("prm800k.yaml")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['given']} for {case['gold']}")
def test_golden_answers(case: dict[str, Any]) -> None:
    assert prm800k.same_answer(case["given"], case["gold"]) is case["mlperf"]


@pytest.mark.parametrize(
    ("answer", "normalized"),
    [
        (r"\text{ Evelyn }", "Evelyn"),
        (r"\dfrac12", r"\frac{1}{2}"),
        (r"\frac1{72}", r"\frac{1}{72}"),
        (r"\frac{1}2", r"\frac{1}2"),
        (r"3\frac", r"3\frac"),
        (r"2\sqrt3+1", r"2\sqrt{3}+1"),
        (r"\sqrt", r"\sqrt"),
        ("x = .5", r"\frac{1}{2}"),
        (".5", r"\frac{1}{2}"),
        ("3/4", r"\frac{3}{4}"),
        ("03/4", "03/4"),
        ("area = 5", "area=5"),
        (r"5\text{ cm}", "5"),
        (r"1\text{ a}\text{ b}", r"1\text{ a}\text{ b}"),
        (r"\left( 1, 2 \right)", "(1,2)"),
        (r"90^{\circ}", "90"),
        (r"\$5", "5"),
        ("", ""),
    ],
)
def test_the_normal_form_of_the_data_set(answer: str, normalized: str) -> None:
    assert hendrycks.normalized(answer) == normalized


@pytest.mark.parametrize(
    ("answer", "normalized"),
    [
        ("1,000", "1000"),
        ("3.0", "3"),
        ("5 feet", "5"),
        ("2 million", "2*10^6"),
        ("7 3/4", "7+3/4"),
        (r"2\frac{1}{2}", "2+1/2"),
        (r"\frac{\sqrt{3}}{2}", "sqrt(3)/2"),
        ("- 4", "-4"),
        ("1 or 2", "1,2"),
        (r"30^\circ", "30"),
        ("inf", "inf"),
    ],
)
def test_the_second_normal_form(answer: str, normalized: str) -> None:
    assert prm800k.normalized(answer) == normalized


def test_an_expression_cannot_name_a_builtin() -> None:
    assert str(prm800k._parsed("id(5)")) == "5*d*i"


@given(REPLIES, REPLIES)
def test_no_answer_breaks_the_normal_forms(one: str, other: str) -> None:
    assert isinstance(hendrycks.normalized(one), str)
    assert isinstance(prm800k.elements(prm800k.normalized(other)), list)
