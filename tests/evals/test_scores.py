"""Scores of repeats, duplicates and what was never graded; MLPerf's own point rule."""

from dataclasses import replace

import pytest

from flagdeploy.evals.answers import Answer
from flagdeploy.evals.dataset import load
from flagdeploy.evals.grading.grade import Grade
from flagdeploy.evals.grading.grader import Grades
from flagdeploy.evals.items import Item
from flagdeploy.evals.scores import Judged, Result, mlperf_gate, score


def judged(
    key: str, value: float | None, repeat: int = 0, cluster: str = "", tokens: int = 100
) -> Judged:
    item = Item(key, "t", "mlperf:gpqa", (), "A", cluster or key, 9)
    answer = Answer(
        *("r", key, "t", "ok", "A", "A", value, "", "stop", 1, tokens, 200, 1, 0.0, 0.0),
        repeat=repeat,
    )
    grade = Grade("A", value)
    return Judged(item, answer, Grades(grade, grade))


def value_of(*rows: Judged) -> tuple[float, int]:
    found = score(rows, "mlperf")
    assert found is not None
    return found.mean.value, found.n


def test_questions_count_alike_however_often_they_were_asked() -> None:
    rows = [judged("a", 1.0, repeat) for repeat in range(8)]
    assert value_of(*rows, judged("b", 0.0), judged("b", 0.0, 1)) == (0.5, 10)


def test_a_question_that_stands_there_twice_counts_twice() -> None:
    assert value_of(judged("a", 1.0), judged("a", 1.0), judged("b", 0.0)) == (2 / 3, 3)


def test_what_was_not_graded_or_never_answered_is_left_out() -> None:
    lost = judged("c", 0.0)
    lost = Judged(lost.item, replace(lost.answer, status="error", score=None), None)
    assert value_of(judged("a", 1.0), judged("b", None), lost) == (1.0, 1)
    assert score([lost], "mlperf") is None


def test_a_rule_that_does_not_know_some_benchmark_gives_no_score() -> None:
    other = judged("b", 1.0)
    assert other.grades is not None
    other = Judged(other.item, other.answer, Grades(None, other.grades.lenient))
    assert score([judged("a", 1.0), other], "mlperf") is None
    assert score([judged("a", 1.0), other], "lenient") is not None


@pytest.mark.parametrize(
    ("right", "tokens", "verdict"),
    [
        # 80.544618%: 3535 of 4388 are 80.5606%, 3534 are 80.5378%
        (3535, 3886, "80.5606% and 3886.0: reached"),
        (3534, 3886, "80.5378% and 3886.0: not reached"),
        (3535, 3498, "80.5606% and 3498.0: reached"),
        (3535, 3497, "80.5606% and 3497.0: not reached"),
        (3535, 4275, "80.5606% and 4275.0: not reached"),
    ],
)
def test_what_mlperf_wants(right: int, tokens: int, verdict: str) -> None:
    dataset = load("mlperf_deepseek_r1")
    rows = [judged(str(n), float(n < right), tokens=tokens) for n in range(4388)]
    result = Result("r1", "R1", tuple(rows), {})
    assert mlperf_gate(result, dataset) == (
        f"MLPerf wants 80.5446% and 3497.6 to 4274.9 tokens on average; {verdict}"
    )
    assert mlperf_gate(replace(result, judged=tuple(rows[:-1])), dataset) is None
    assert mlperf_gate(result, load("gsm8k")) is None
