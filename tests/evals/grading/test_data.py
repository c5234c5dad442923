"""The gold answers of real test sets must all score: a sample that is here, the whole elsewhere.

The whole sets are read from the folder that FLAGDEPLOY_DATA names, laid out as
gsm8k/test.jsonl, math500/test.jsonl, mmlu_stem/test.jsonl and mgsm_zh/mgsm_zh.tsv.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from evals.grading.cases import CASES
from flagdeploy.evals.grading.grader import Grader, Reply
from flagdeploy.evals.grading.plain import grade
from flagdeploy.evals.grading.pool import Pool

SAMPLES = {
    "gsm8k": ("gsm8k.jsonl", 12),
    "math500": ("math500.jsonl", 20),
    "mmlu_stem": ("mmlu_stem.jsonl", 12),
    "mgsm_zh": ("mgsm_zh.tsv", 12),
}
WHOLE = {
    "gsm8k": ("gsm8k/test.jsonl", 1319),
    "math500": ("math500/test.jsonl", 500),
    "mmlu_stem": ("mmlu_stem/test.jsonl", 3018),
    "mgsm_zh": ("mgsm_zh/mgsm_zh.tsv", 250),
}


def rows(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    if path.suffix == ".tsv":
        pairs = [line.split("\t") for line in lines]
        return [{"question": question, "answer": answer} for question, answer in pairs]
    return [json.loads(line) for line in lines]


def sample(name: str) -> list[dict[str, Any]]:
    file, n = SAMPLES[name]
    found = rows(CASES / "data" / file)
    assert len(found) == n
    return found


def whole(name: str) -> list[dict[str, Any]]:
    folder = os.environ.get("FLAGDEPLOY_DATA")
    if not folder:
        pytest.skip("FLAGDEPLOY_DATA names no folder of public test sets, which are not shipped")
    file, n = WHOLE[name]
    found = rows(Path(folder) / file)
    assert len(found) == n
    return found


SOURCES = pytest.mark.parametrize("read", [sample, whole])


@SOURCES
def test_gsm8k(read: Any) -> None:
    """The solution as it stands in the set, and its number in a box."""
    grader = Grader()
    for row in read("gsm8k"):
        gold = row["answer"].split("####")[-1].strip()
        for text in (row["answer"], f"<think>1+1</think>\\boxed{{{gold}}}"):
            assert grader.lenient(Reply("gsm8k", text, gold)).score == 1.0
            assert grade("gsm8k", text, gold).score == 1.0


@SOURCES
def test_mmlu(read: Any) -> None:
    grader = Grader()
    for row in read("mmlu_stem"):
        for text in (f"Answer: {row['answer']}", f"<think>A?</think>\\boxed{{{row['answer']}}}"):
            assert grader.lenient(Reply("mmlu", text, row["answer"])).score == 1.0
            assert grade("mmlu", text, row["answer"]).score == 1.0
        gpqa = Grader().both(Reply("gpqa", f"Answer: {row['answer']}", row["answer"]))
        assert gpqa.mlperf is not None and gpqa.mlperf.score == 1.0


@SOURCES
def test_mgsm(read: Any) -> None:
    grader = Grader()
    for row in read("mgsm_zh"):
        text = f"\u7b54\u6848\u662f{row['answer']}\u3002"
        assert grader.lenient(Reply("mgsm_zh", text, row["answer"])).score == 1.0
        assert grade("gsm8k", text, row["answer"]).score == 1.0


@SOURCES
def test_math500(read: Any, pool: Pool) -> None:
    """The worked solution, which ends in the gold answer in a box, and the box alone."""
    questions = read("math500")
    for texts in (
        [row["solution"] for row in questions],
        [f"<think>x</think>\\boxed{{{row['answer']}}}" for row in questions],
    ):
        replies = [
            Reply("math500", text, row["answer"])
            for text, row in zip(texts, questions, strict=True)
        ]
        for reply, found in zip(replies, Grader(pool=pool).all(replies), strict=True):
            assert found.mlperf is not None
            assert (found.mlperf.score, found.lenient.score) == (1.0, 1.0), reply
