"""The name that a question carries says how it is graded, wherever that is."""

import pytest

from flagdeploy.errors import EvalError
from flagdeploy.evals.grading import shapes

BOLD = "<think>A?</think>**Answer:** B"


@pytest.mark.parametrize(
    ("shape", "reply", "gold", "score"),
    [
        ("gsm8k", "So 18.", "18", 1.0),
        ("lenient:gsm8k", "So 18 eggs.", "18", 1.0),
        ("lenient:gpqa", BOLD, "B", 1.0),
        ("mlperf:gpqa", BOLD, "B", 0.0),
        ("mlperf:aime1983", "\\boxed{042}", "42", 1.0),
        # gpt-oss reads the final message: here a letter opens it, whatever the thoughts say.
        ("gpt-oss-120b:gpqa_diamond", "<think>Answer: A</think>B", "B", 1.0),
        ("gpt-oss-120b:gpqa_diamond", "<think>Answer: A", "A", 1.0),
    ],
)
def test_grades(shape: str, reply: str, gold: str, score: float) -> None:
    assert shapes.grade(shape, reply, gold).score == score
    assert shapes.primary(shape, shapes.both(shape, reply, gold)).score == score


def test_both_rules_of_one_reply() -> None:
    both = shapes.both("mlperf:gpqa", BOLD, "B")
    assert both.mlperf is not None
    assert (both.mlperf.score, both.lenient.score, both.differ) == (0.0, 1.0, True)
    assert shapes.both("lenient:ceval", "\u7b54\u6848\uff1aB", "B").mlperf is None
    assert shapes.both("gsm8k", "18", "18").mlperf is None


def test_what_nobody_grades() -> None:
    with pytest.raises(EvalError, match="no grader knows the benchmark `poetry`"):
        shapes.grade("lenient:poetry", "x", "y")
    with pytest.raises(EvalError, match="MLPerf's references do not grade `gsm8k`"):
        shapes.grade("mlperf:gsm8k", "x", "y")


def test_code_is_what_would_have_to_run() -> None:
    code = ["lenient:livecodebench", "mlperf:livecodebench", "gpt-oss-120b:livecodebench_v6"]
    assert all(map(shapes.runs_code, code))
    assert not any(map(shapes.runs_code, ["gsm8k", "lenient:gsm8k", "mlperf:math500"]))
    assert shapes.grade(code[0], "```python\nx\n```", "3154").score is None


def test_thoughts_in_the_format_of_gpt_oss() -> None:
    assert shapes.as_harmony("<think>a</think>b") == (
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b"
        "<|return|>"
    )
    for same in ("plain", "<|channel|>final<|message|>x<think>"):
        assert shapes.as_harmony(same) == same
