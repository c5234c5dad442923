"""Golden replies of the rules that the benchmarks of a folder are graded by."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagdeploy.evals.grading.grade import Status
from flagdeploy.evals.grading.plain import grade
from flagdeploy.evals.grading.replies import final_text, last_boxed

GOLDEN = [
    # shape, reply, gold, prediction, score
    ("gsm8k", r"So \boxed{18}.", "18", "18", 1),
    ("gsm8k", r"\boxed{1} then \boxed{\$1,000.00}", "1000", r"\$1,000.00", 1),
    ("gsm8k", "that makes 1,234 apples.", "1234", "1,234", 1),
    ("gsm8k", "#### -7", "-7", "-7", 1),
    ("gsm8k", "50% of it", "50", "50", 1),
    ("gsm8k", r"\boxed{x} so 5", "5", "5", 1),
    ("gsm8k", r"\boxed{5", "5", "5", 1),
    ("gsm8k", "0.5", ".50", "0.5", 1),
    ("gsm8k", "no idea", "5", None, 0),
    ("gsm8k", "<think>3</think>4", "3", "4", 0),
    ("gsm8k", "3</think>4</think>5", "5", "5", 1),
    ("gsm8k", "<think>it is 3", "3", None, 0),
    ("gsm8k", r"\boxed{NaN} or 3", "3", "3", 1),
    ("mmlu", "Answer: B", "B", "B", 1),
    ("mmlu", "**Answer:** (c)", "C", "C", 1),
    ("mmlu", "Answer: A\nno, Answer: D", "D", "D", 1),
    ("mmlu", r"\boxed{B}", "B", "B", 1),
    ("mmlu", r"Answer: A, that is \boxed{\text{B}}", "B", "B", 1),
    ("mmlu", "Answer: Because", "B", None, 0),
    ("mmlu", "It is B", "B", None, 0),
    ("mmlu", "<think>Answer: A</think>Answer: B", "A", "B", 0),
    # the rules of MLPerf's parse_aime_answer
    ("aime", r"\boxed{042}", "42", "42", 1),
    ("aime", r"\boxed{ 7 }", "7", "7", 1),
    ("aime", r"\boxed{12.0}", "12", None, 0),
    ("aime", r"\boxed{\text{33}}", "33", None, 0),
    ("aime", "Answer: 12.", "12", None, 0),
    ("aime", "Answer: 12", "12", "12", 1),
    ("aime", "**Answer:** 9", "9", None, 0),
    ("aime", r"\boxed{1000}", "1000", None, 0),
    ("aime", r"Answer: 5 \boxed{6}", "6", "6", 1),
    ("aime", "Answer: " + "9" * 5000, "9", None, 0),
]


@pytest.mark.parametrize(("shape", "reply", "gold", "prediction", "score"), GOLDEN)
def test_golden(shape: str, reply: str, gold: str, prediction: str | None, score: int) -> None:
    found = grade(shape, reply, gold)
    assert (found.prediction, found.score) == (prediction, score)


def test_a_reply_cut_inside_thoughts_that_the_template_opened_is_unparsed() -> None:
    assert final_text("3 plus 4 is 7", finish_reason="length") is None
    assert final_text("3 plus 4 is 7", finish_reason="stop") == "3 plus 4 is 7"
    assert final_text("7</think>It is 7", finish_reason="length") == "It is 7"


@given(st.text(alphabet="{}ab\\", max_size=12).filter(lambda t: t.count("{") == t.count("}")))
def test_last_boxed_gives_back_what_was_boxed(text: str) -> None:
    depth = 0
    for character in text:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth < 0:
            return
    assert last_boxed(f"so \\boxed{{{text}}} it is") == text


@pytest.mark.parametrize("shape", ["gsm8k", "mmlu", "aime"])
@given(reply=st.text(max_size=60))
def test_no_reply_breaks_a_grader(shape: str, reply: str) -> None:
    gold = {"gsm8k": "1", "mmlu": "A", "aime": "1"}[shape]
    assert grade(shape, reply, gold).score in (0.0, 1.0)


@pytest.mark.parametrize(
    ("reply", "finish_reason", "status"),
    [
        (r"\boxed{5}", "stop", Status.PARSED),
        ("I cannot say", "stop", Status.UNPARSED),
        ("<think>5 and", "stop", Status.TRUNCATED),
        ("5 and", "length", Status.TRUNCATED),
        ("5</think>so it is 5", "length", Status.TRUNCATED),
    ],
)
def test_a_reply_without_an_answer_is_not_wrong_in_silence(
    reply: str, finish_reason: str, status: Status
) -> None:
    assert grade("gsm8k", reply, "5", finish_reason).status is status
