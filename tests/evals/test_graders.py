"""Golden replies, and the gold answers of real test sets, which must all score."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagdeploy.evals.benchmarks import Benchmark, load_items
from flagdeploy.evals.graders import Grade, final_text, grade, last_boxed

DATA = Path(__file__).parents[3] / "shared" / "data"

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
]


@pytest.mark.parametrize(("shape", "reply", "gold", "prediction", "score"), GOLDEN)
def test_golden(shape: str, reply: str, gold: str, prediction: str | None, score: int) -> None:
    assert grade(shape, reply, gold) == Grade(prediction, score)


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


def need(path: str) -> Path:
    file = DATA / path
    if not file.exists():
        pytest.skip(f"{path} is not on this machine: the public test sets are not shipped")
    return file


def gold_replies(shape: str, file: Path) -> list[tuple[str, str]]:
    benchmark = Benchmark(shape, shape, file, "{question}", 100)
    rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    items = load_items(benchmark)
    return [(row["answer"], item.gold) for row, item in zip(rows, items, strict=True)]


def test_every_gold_solution_of_gsm8k_scores() -> None:
    replies = gold_replies("gsm8k", need("gsm8k/test.jsonl"))
    assert len(replies) == 1319
    assert all(grade("gsm8k", solution, gold).score for solution, gold in replies)
    boxed = (f"<think>1+1</think>\\boxed{{{gold}}}" for _, gold in replies)
    assert all(grade("gsm8k", b, gold).score for b, (_, gold) in zip(boxed, replies, strict=True))


def test_every_gold_letter_of_mmlu_stem_scores() -> None:
    replies = gold_replies("mmlu", need("mmlu_stem/test.jsonl"))
    assert len(replies) == 3018
    assert all(grade("mmlu", f"Answer: {letter}", gold).score for letter, gold in replies)


def test_every_number_of_mgsm_zh_scores() -> None:
    lines = need("mgsm_zh/mgsm_zh.tsv").read_text(encoding="utf-8").splitlines()
    golds = [re.split("\t", line)[1] for line in lines]
    assert len(golds) == 250
    assert all(grade("gsm8k", f"\u7b54\u6848\u662f{gold}\u3002", gold).score for gold in golds)
