"""What MLPerf's reference scripts make of an accuracy run: outputs with right and wrong.

DeepSeek-R1 (language/deepseek-r1/eval_accuracy.py): a pickled pandas table with `prompt_accuracy`
100 or 0. GPT-OSS (language/gpt-oss-120b/eval_mlperf_accuracy.py): `--save-outputs`, a pickled
table with `is_correct`, or `--output-file --verbose`, JSON with `detailed_results`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flagdeploy.errors import EvalError
from flagdeploy.evals.readers.samples import Row, Samples, answer, digest, json_file, reading
from flagdeploy.formats.data_frame import read_columns

TOOL = "MLPerf reference"
QUESTIONS = "data set, question and ground truth"
INDICES = "data set, sample index and ground truth"
# How often eval_mlperf_accuracy.py (DATASET_REPEATS) says that a data set holds each question.
REPEATS = {"aime25": 8, "gpqa_diamond": 5, "livecodebench_v6": 3}


def read_pickle(path: Path) -> Samples:
    """A pickled table of either script; EvalError when it is none, or of something else."""
    try:
        columns = read_columns(path)
    except OSError as error:
        raise EvalError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise EvalError(f"{path}: {error}", "only pickled pandas tables are read") from None
    if not {"dataset", "ground_truth", "extracted_answer"} <= columns.keys():
        raise EvalError(
            f"{path}: has the columns {', '.join(columns)}",
            hint="give the table that MLPerf's evaluation script saved, with `extracted_answer`",
        )
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return of_rows(path, rows)


def read_json(path: Path) -> Samples:
    """`accuracy_results.json` of eval_mlperf_accuracy.py; EvalError when it has no details."""
    found = json_file(path)
    rows = found.get("detailed_results") if isinstance(found, dict) else None
    if not rows:
        raise EvalError(
            f"{path}: has no `detailed_results`", "run eval_mlperf_accuracy.py with --verbose"
        )
    return of_rows(path, rows)


def of_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Samples:
    """The samples of a table's rows; EvalError naming the row that is none."""
    clusters = _repeats(rows)
    made = []
    for number, row in enumerate(rows):
        with reading(f"{path}: row {number}", "an output of MLPerf's evaluation"):
            made.append(_row(row, clusters.get(number, "")))
    asked = bool(rows) and "question" in rows[0]
    return Samples(
        name=str(path),
        tool=TOOL,
        version="unknown",
        identity=QUESTIONS if asked else INDICES,
        grader="MLPerf reference exact_match" if asked else "MLPerf reference is_correct",
        rows=tuple(made),
        facts={"benchmark": "deepseek-r1" if asked else "gpt-oss-120b"},
    )


def _row(row: Mapping[str, Any], cluster: str) -> Row:
    task, gold = str(row["dataset"]), str(row["ground_truth"])
    question = str(row.get("question") or "")
    found = row["extracted_answer"]
    right = row["is_correct"] if "is_correct" in row else row["prompt_accuracy"] / 100
    ids = row.get("output_token_ids")
    count = row.get("tok_model_output_len", row.get("token_count", len(ids or ())))
    return Row(
        answer(
            digest(task, question or str(row["qsl_idx"]), gold),
            task,
            status="unparsed" if found is None or found != found else "ok",
            gold=gold,
            score=float(right),
            prediction=None if found is None or found != found else str(found),
            content=str(row.get("model_output") or row.get("model_output_preview") or ""),
            completion_tokens=int(count) or None,
            token_ids=[int(id_) for id_ in ids] if ids is not None else None,
        ),
        question=question,
        prompt=str(row.get("text_input") or question),
        cluster=cluster,
    )


def _repeats(rows: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Row number -> its question, where the file shows how repeats of a data set are laid out.

    The sets hold each question several times and number the repeats as samples. They lie either
    side by side or one whole pass after another, which the ground truths tell.
    """
    groups: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        if "qsl_idx" in row and row.get("dataset") in REPEATS:
            groups.setdefault(str(row["dataset"]), []).append(number)
    found = {}
    for task, numbers in groups.items():
        ordered = sorted(numbers, key=lambda number: int(rows[number]["qsl_idx"]))
        golds = [str(rows[number]["ground_truth"]) for number in ordered]
        for place, group in enumerate(_layout(golds, REPEATS[task])):
            found[ordered[place]] = f"{task} {group}"
    return found


def _layout(golds: Sequence[str], repeats: int) -> list[int]:
    """The question of each sample; empty when neither layout fits."""
    questions, rest = divmod(len(golds), repeats)
    if rest:
        return []
    if list(golds) == list(golds[:questions]) * repeats:
        return [place % questions for place in range(len(golds))]
    if all(golds[place] == golds[place - place % repeats] for place in range(len(golds))):
        return [place // repeats for place in range(len(golds))]
    return []


def is_json(path: Path) -> bool:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and "detailed_results" in found
