"""Whole comparisons of two recorded sides."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from flagdeploy.evals.comparison import CompareResult
from flagdeploy.evals.readers.comparison import compared
from flagdeploy.evals.readers.detect import read_samples
from flagdeploy.evals.readers.samples import Row, Samples, answer

CASES = Path("tests/cases/readers")


def side(
    scores: Sequence[Sequence[float | None]],
    *,
    name: str = "a",
    grader: str = "exact",
    limited: str = "",
    prompt: str = "",
) -> Samples:
    """One question per entry, with its repeats; None is an error."""
    rows = [
        Row(
            answer(
                str(key),
                "t",
                status="error" if score is None else "ok",
                gold="1",
                score=score,
                content=f"reply {score}",
                completion_tokens=10,
            ),
            question=f"question {key}?",
            prompt=f"{prompt}question {key}?",
        )
        for key, repeats in enumerate(scores)
        for score in repeats
    ]
    return Samples(name, "tool", "1", "hash", grader, tuple(rows), limited, cut_known=True)


def verdicts(result: CompareResult) -> dict[str, str]:
    return {finding.name: str(finding.verdict) for finding in result.findings}


def sentence(result: CompareResult, name: str) -> str:
    return next(finding.sentence for finding in result.findings if finding.name == name)


RIGHT, WRONG = [[1.0]] * 300, [[0.0]] * 300


def test_equal_answers_pass() -> None:
    result = compared(side(RIGHT), side(RIGHT))
    assert verdicts(result) == {
        "pairing": "INFO",
        "accuracy, t": "PASS",
        "answer flips": "INFO",
        "output length": "PASS",
        "truncated replies": "PASS",
    }
    assert (result.verdict, result.mode, result.identical) == ("PASS", "paired answers only", 1.0)
    assert sentence(result, "pairing") == "300 questions are paired by hash"


def test_worse_answers_fail_and_their_flips_are_listed() -> None:
    result = compared(side(RIGHT), side([*RIGHT[:200], *WRONG[:100]]))
    assert result.verdict == "FAIL"
    assert (result.flip_count, len(result.flips)) == (100, 10)
    assert result.flips[0]["question"] == "question 200?"
    assert result.flips[0]["baseline"]["content"] == "reply 1.0"


def test_questions_that_only_the_baseline_has_count_as_asked_in_vain() -> None:
    result = compared(side(RIGHT), side(RIGHT[:290]))
    assert verdicts(result)["accuracy, t"] == "INCONCLUSIVE"
    assert "10 without an answer, and counting those as wrong it would not pass" in sentence(
        result, "accuracy, t"
    )
    assert sentence(result, "pairing") == (
        "290 questions are paired by hash; 10 are only at the baseline, counted as asked here "
        "in vain"
    )


def test_unless_the_run_is_known_to_have_asked_fewer() -> None:
    result = compared(side(RIGHT), side(RIGHT[:290], limited="limit 290"))
    assert result.verdict == "PASS"
    assert sentence(result, "pairing").endswith(
        "10 are only at the baseline, not asked here (limit 290)"
    )


def test_questions_that_only_the_candidate_has_are_counted() -> None:
    result = compared(side(RIGHT[:290]), side(RIGHT))
    assert sentence(result, "pairing").endswith("10 are only here and left out")


def test_an_error_is_no_wrong_answer_and_no_right_one() -> None:
    result = compared(side(RIGHT), side([*RIGHT[:290], *[[None]] * 10]))
    assert result.verdict == "INCONCLUSIVE"
    assert result.answers["candidate"]["error"] == 10
    lost = compared(side([*RIGHT[:290], *[[None]] * 10]), side(RIGHT))
    assert "10 have no score at the baseline" in sentence(lost, "pairing")


def test_repeats_are_averaged_and_a_lost_one_loses_the_question() -> None:
    half = [[1.0, 0.0]] * 300
    assert (
        compared(side(half), side(half))
        .findings[1]
        .sentence.startswith("50.00% at the baseline, 50.00% here on 300 questions asked 2 times")
    )
    lost = [[1.0, None], *half[1:]]
    assert "1 without an answer" in sentence(compared(side(half), side(lost)), "accuracy, t")


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"grader": "loose"}, "graded by exact there, by loose here"),
        ({"prompt": "Think. "}, "300 questions were prompted otherwise"),
    ],
)
def test_what_was_asked_or_graded_otherwise_is_not_judged(other: dict[str, str], why: str) -> None:
    result = compared(side(RIGHT), side(WRONG, **other))  # type: ignore[arg-type]
    assert verdicts(result)["asked and graded alike"] == result.verdict == "INCONCLUSIVE"
    assert verdicts(result)["accuracy, t"] == "INFO"
    assert sentence(result, "asked and graded alike").startswith(why)


def test_lm_eval_with_evalscope() -> None:
    """Another prompt and grader, the same questions."""
    result = compared(read_samples(CASES / "lm_eval/a"), read_samples(CASES / "evalscope/b"))
    assert sentence(result, "pairing") == (
        "4 questions are paired by question text and right answer; 3 are only here and left out"
    )
    assert sentence(result, "asked and graded alike") == (
        "graded by lm-eval exact_match (filter strict-match) there, by evalscope accuracy here "
        "and 4 questions were prompted otherwise: a difference may be of that, so accuracy is "
        "not judged"
    )
    assert result.baseline["version"] == "0.4.13"
    assert result.candidate["version"] == "1.14.1"


def test_choices_of_lm_eval_with_evalscope() -> None:
    result = compared(read_samples(CASES / "lm_eval/choices"), read_samples(CASES / "evalscope/b"))
    assert sentence(result, "pairing").startswith("2 questions are paired by question text")


def test_what_a_tool_does_not_keep_is_not_tested() -> None:
    """lm-eval keeps neither tokens nor why a reply ended."""
    result = compared(read_samples(CASES / "lm_eval/a"), read_samples(CASES / "lm_eval/b"))
    assert list(verdicts(result)) == ["pairing", "accuracy, gsm8k_local", "answer flips"]
    assert result.flip_count == 4
