import json
import shutil
from pathlib import Path

import pytest

from flagdeploy.errors import EvalError
from flagdeploy.evals.readers import lm_eval
from flagdeploy.evals.readers.detect import is_folder, read_samples

CASES = Path("tests/cases/readers/lm_eval")
FILE = next((CASES / "a" / "tiny").glob("samples_*.jsonl"))


def test_a_folder_is_read_with_its_results() -> None:
    samples = read_samples(CASES / "a")
    assert (samples.tool, samples.version) == ("lm-eval", "0.4.13")
    assert samples.grader == "lm-eval exact_match (filter strict-match)"
    assert samples.about()["model"] == "tiny"
    assert not samples.limited
    assert [
        (row.answer.task, row.answer.prediction, row.answer.gold, row.answer.score)
        for row in samples.rows
    ] == [
        ("gsm8k_local", "18", "18", 1.0),
        ("gsm8k_local", None, "3", 0.0),
        ("gsm8k_local", "540", "540", 1.0),
        ("gsm8k_local", "20", "20", 1.0),
    ]
    assert [row.answer.status for row in samples.rows] == ["ok", "unparsed", "ok", "ok"]
    assert samples.rows[2].question.startswith("James decides to run 3 sprints")
    assert samples.rows[2].prompt.startswith("Question: James decides to run 3 sprints")
    assert samples.rows[2].answer.content.endswith("#### 540")


def test_a_file_and_its_folder_hold_the_same() -> None:
    assert read_samples(FILE).rows == read_samples(CASES / "a").rows


@pytest.mark.parametrize("name", ["flexible-extract", "exact_match,flexible-extract"])
def test_a_filter_is_chosen(name: str) -> None:
    samples = read_samples(FILE, name)
    assert samples.grader == "lm-eval exact_match (filter flexible-extract)"
    assert len(samples.rows) == 4


def test_a_filter_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(EvalError, match="has no answers of filter `strict`") as raised:
        read_samples(FILE, "strict")
    assert raised.value.hint == "there are: strict-match, flexible-extract"


def test_choices_scored_by_likelihood_have_letters() -> None:
    samples = read_samples(CASES / "choices")
    row = samples.rows[0]
    assert (row.answer.prediction, row.answer.gold, row.answer.score) == ("D", "B", 0.0)
    assert row.cluster == "abstract_algebra"
    assert samples.grader == "lm-eval acc (filter none)"
    assert samples.limited == "2 of 3 of mmlu_local"


def test_repeats_of_a_question_are_the_one_answer_that_their_filter_made() -> None:
    samples = read_samples(CASES / "repeats")
    assert [row.answer.prediction for row in samples.rows] == ["18"]
    assert samples.grader == "lm-eval exact_match (filter maj)"


def test_tasks_of_a_group_are_its_subjects(tmp_path: Path) -> None:
    """As for MMLU: 57 tasks in four groups in one."""
    shutil.copytree(CASES / "choices", tmp_path, dirs_exist_ok=True)
    path = next((tmp_path / "dummy").glob("results_*.json"))
    groups = {"mmlu": ["mmlu_stem"], "mmlu_stem": ["mmlu_local"]}
    path.write_text(json.dumps({**json.loads(path.read_text()), "group_subtasks": groups}))
    rows = read_samples(tmp_path).rows
    assert {(row.answer.task, row.cluster) for row in rows} == {("mmlu", "mmlu_local")}


def test_the_newest_run_of_a_task_counts(tmp_path: Path) -> None:
    shutil.copytree(CASES / "a", tmp_path / "a")
    other = next((CASES / "b" / "tiny").glob("samples_*.jsonl"))
    shutil.copy(other, tmp_path / "a" / "tiny")
    assert read_samples(tmp_path / "a").rows == read_samples(other).rows


def test_a_folder_of_several_models_is_refused(tmp_path: Path) -> None:
    for side in "ab":
        shutil.copytree(CASES / side / "tiny", tmp_path / side)
    assert is_folder(tmp_path)
    with pytest.raises(EvalError, match="holds samples of 2 runs: a, b"):
        read_samples(tmp_path)


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    lines = FILE.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:3], lines[3][:200]]))
    with pytest.raises(EvalError, match=r"samples\.jsonl:4: not JSON: Unterminated string"):
        read_samples(path)


def test_earlier_turns_belong_to_the_prompt_and_not_to_the_question(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    row = json.loads(FILE.read_text().splitlines()[0])
    turns = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
    turns.append({"role": "user", "content": "3+3?"})
    row |= {"doc": {"answer": "6"}, "arguments": {"gen_args_0": {"arg_0": [json.dumps(turns)]}}}
    path.write_text(json.dumps(row) + "\n")
    (found,) = read_samples(path).rows
    assert (found.question, found.prompt) == ("3+3?", "2+2?\n4\n3+3?")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exact_match": 7}, "not a sample of lm-eval: ValueError `7` is no score between 0 and 1"),
        ({"exact_match": None}, "none of its metrics is between 0 and 1: exact_match"),
        ({"arguments": {}}, "not a sample of lm-eval: IndexError list index out of range"),
        ({"filtered_resps": []}, "not a sample of lm-eval: IndexError list index out of range"),
        ({"doc_hash": 5}, None),
    ],
)
def test_a_row_of_another_shape_is_named(
    tmp_path: Path, change: dict[str, object], message: str | None
) -> None:
    path = tmp_path / "samples.jsonl"
    rows = [json.loads(line) for line in FILE.read_text().splitlines()]
    rows[0 if message and "none of its" in message else 1].update(change)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if message is None:
        assert len(lm_eval.read(path).rows) == 4
        return
    with pytest.raises(EvalError) as raised:
        lm_eval.read(path)
    line = 1 if "none of its" in message else 2
    assert str(raised.value).startswith(f"{path}:{line}: {message}")
