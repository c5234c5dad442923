import json
import shutil
from pathlib import Path

import pytest

from flagdeploy.errors import EvalError
from flagdeploy.evals.readers.detect import read_samples

CASES = Path("tests/cases/readers/evalscope")
REVIEWS = Path("reviews/tiny/general_mcq_stem.jsonl")


def test_a_folder_is_read_with_its_predictions() -> None:
    samples = read_samples(CASES / "a")
    assert (samples.tool, samples.version) == ("evalscope", "1.14.1")
    assert samples.grader == "evalscope accuracy"
    assert samples.cut_known
    assert samples.greedy
    found = {
        (row.answer.task, row.answer.prediction, row.answer.gold): (
            row.answer.score,
            row.answer.status,
            row.answer.completion_tokens,
        )
        for row in samples.rows
    }
    assert found == {
        ("general_mcq", "B", "B"): (1.0, "ok", 5),
        ("general_mcq", None, "A"): (0.0, "length", 3),
        ("general_mcq", "A", "A"): (1.0, "ok", 5),
        **{("gsm8k", n, n): (1.0, "ok", 9) for n in ("18", "3", "540", "20")},
    }


def test_reviews_without_predictions_know_no_cut_replies(tmp_path: Path) -> None:
    shutil.copytree(CASES / "a" / "reviews", tmp_path / "reviews")
    samples = read_samples(tmp_path)
    assert not samples.cut_known
    assert samples.version == "unknown"
    assert {row.answer.status for row in samples.rows} == {"ok", "unparsed"}


def test_repeats_are_answers_to_one_question() -> None:
    samples = read_samples(CASES / "repeats")
    assert samples.limited == "limit 1"
    assert len(samples.rows) == 2
    assert len({row.answer.item for row in samples.rows}) == 1


def test_rows_of_version_1_0_are_read(tmp_path: Path) -> None:
    """As in examples/viz of the tool's repository: another metric, and one target."""
    path = tmp_path / "gsm8k_main.jsonl"
    score = {"value": {"acc": 1.0}, "extracted_prediction": "3", "prediction": "It is 3"}
    row = {"index": 1, "target": "3", "input": "A robe?", "sample_score": {"score": score}}
    path.write_text(json.dumps(row) + "\n")
    samples = read_samples(path)
    assert samples.grader == "evalscope acc"
    (found,) = samples.rows
    assert (found.question, found.answer.content, found.answer.gold) == ("A robe?", "It is 3", "3")
    assert found.answer.task == "gsm8k_main"


def test_a_score_that_failed_is_no_answer(tmp_path: Path) -> None:
    shutil.copytree(CASES / "a", tmp_path / "a")
    path = tmp_path / "a" / REVIEWS
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["sample_score"]["score"] |= {"value": {}, "status": "judge_failed"}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (failed,) = (row for row in read_samples(tmp_path / "a").rows if row.answer.score is None)
    assert failed.answer.status == "error"


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    shutil.copytree(CASES / "a", tmp_path / "a")
    path = tmp_path / "a" / REVIEWS
    path.write_text(path.read_text() + "{}\n")
    with pytest.raises(EvalError) as raised:
        read_samples(tmp_path / "a")
    missing = "has no index, sample_score, target"
    assert str(raised.value) == f"{path}:4: not a review of evalscope: {missing}"
