"""Both graders for a reply, on golden cases and on replies that were cut, empty or hostile."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from evals.grading.cases import REPLIES, cases
from flagdeploy.errors import EvalError
from flagdeploy.evals.grading.grade import Grade, Status
from flagdeploy.evals.grading.grader import NOT_RUN, Grader, Reply
from flagdeploy.evals.grading.pool import Pool


def reply_of(case: dict[str, Any]) -> Reply:
    name = case.get("dataset") or case["benchmark"]
    return Reply(name, case["reply"], case["gold"], "stop")


def names(case: dict[str, Any]) -> str:
    return str(case["reply"])


@pytest.mark.parametrize(
    ("reference", "case"),
    [("deepseek-r1", case) for case in cases("mlperf.yaml")]
    + [("gpt-oss-120b", case) for case in cases("gpt_oss.yaml")],
    ids=lambda value: value if isinstance(value, str) else names(value),
)
def test_golden_replies_of_mlperf(pool: Pool, reference: str, case: dict[str, Any]) -> None:
    found = Grader(reference, pool).mlperf(reply_of(case))
    assert found is not None
    assert (found.prediction, found.score) == (case["prediction"], float(case["right"]))


@pytest.mark.parametrize("case", cases("lenient.yaml"), ids=names)
def test_golden_replies_of_the_lenient_grader(pool: Pool, case: dict[str, Any]) -> None:
    found = Grader(pool=pool).lenient(reply_of(case))
    assert (found.prediction, found.score) == (case["prediction"], float(case["right"]))


@pytest.mark.parametrize(
    "case", cases("prm800k.yaml"), ids=lambda case: f"{case['given']} for {case['gold']}"
)
def test_both_graders_of_mathematics(pool: Pool, case: dict[str, Any]) -> None:
    reply = Reply("math500", f"so \\boxed{{{case['given']}}}", case["gold"])
    found = Grader(pool=pool).both(reply)
    assert found.mlperf is not None
    assert found.mlperf.score == float(case["mlperf"])
    assert found.lenient.score == float(case.get("lenient", case["mlperf"]))
    assert found.differ is ("lenient" in case)


def test_a_difference_is_said(pool: Pool) -> None:
    grader = Grader(pool=pool)
    assert str(grader.both(Reply("gpqa", "**Answer:** B", "B"))) == (
        "mlperf: no answer wrong (unparsed); lenient: `B` right"
    )
    assert str(grader.both(Reply("gpqa", "Answer: B", "B"))) == "`B` right"
    assert str(grader.both(Reply("gsm8k", "it is 4", "5"))) == "`4` wrong"


@pytest.mark.parametrize(
    ("text", "finish_reason", "mlperf", "lenient"),
    [
        (r"\boxed{5}", "stop", Status.PARSED, Status.PARSED),
        ("I give up", "stop", Status.UNPARSED, Status.UNPARSED),
        ("<think>it is 5", "stop", Status.UNPARSED, Status.TRUNCATED),
        ("it is 5", "length", Status.TRUNCATED, Status.TRUNCATED),
        (r"5</think>\boxed{5}", "length", Status.TRUNCATED, Status.TRUNCATED),
        ("", None, Status.UNPARSED, Status.UNPARSED),
    ],
)
def test_what_was_cut_is_told_from_what_is_wrong(
    text: str, finish_reason: str | None, mlperf: Status, lenient: Status
) -> None:
    found = Grader().both(Reply("aime", text, "5", finish_reason))
    assert found.mlperf is not None
    assert (found.mlperf.status, found.lenient.status) == (mlperf, lenient)


def test_thoughts_that_were_cut_are_never_parsed() -> None:
    """MLPerf scans the thoughts too; the lenient grader does not."""
    reply = Reply("aime", r"<think>\boxed{5} or", "5", "length")
    found = Grader().both(reply)
    assert found.mlperf == Grade("5", 1.0, Status.TRUNCATED)
    assert found.lenient == Grade(None, 0.0, Status.TRUNCATED)


@pytest.mark.parametrize("benchmark", ["livecodebench", "humaneval"])
def test_generated_code_is_not_run_and_that_is_said(benchmark: str) -> None:
    found = Grader().both(Reply(benchmark, "```python\nprint(1)\n```", "3154"))
    assert found.lenient == Grade("print(1)", None, Status.NOT_GRADED, NOT_RUN)
    assert str(found) == "`print(1)` not graded (not graded)"
    assert "name a container image" in NOT_RUN
    nothing = Grader().lenient(Reply(benchmark, "no code", "3154"))
    assert nothing == Grade(None, 0.0, Status.UNPARSED)


def test_a_benchmark_without_a_reference_has_no_mlperf_grade() -> None:
    assert Grader().both(Reply("gsm8k", "5", "5")).mlperf is None


def test_an_unknown_benchmark_is_refused() -> None:
    with pytest.raises(EvalError) as raised:
        Grader().lenient(Reply("gsm9k", "5", "5"))
    assert str(raised.value) == "no grader knows the benchmark `gsm9k`"
    assert raised.value.hint == "did you mean `gsm8k`?"


def test_answers_come_in_the_order_of_the_replies(pool: Pool) -> None:
    replies = [Reply("math500", f"\\boxed{{{n}}}", str(n % 3)) for n in range(9)]
    found = Grader(pool=pool).all(replies)
    assert [grades.lenient.prediction for grades in found] == [str(n) for n in range(9)]
    assert [grades.lenient.score for grades in found] == [1.0] * 3 + [0.0] * 6


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(text=REPLIES, gold=REPLIES)
def test_no_reply_breaks_the_grading_of_mathematics(pool: Pool, text: str, gold: str) -> None:
    found = Grader(pool=pool).both(Reply("math500", f"\\boxed{{{text}}}", gold))
    assert found.mlperf is not None
    assert {found.mlperf.score, found.lenient.score} <= {0.0, 1.0}
