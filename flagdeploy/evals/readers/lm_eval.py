"""`samples_TASK_TIME.jsonl` of lm-evaluation-harness, as `--log_samples` writes them.

One row per question and filter. Repeats of a question are one row: its filter made one answer of
them. The tool keeps neither finish reasons nor token counts, so cut replies cannot be told.
Source: lm_eval/loggers/evaluation_tracker.py and lm_eval/evaluator.py (checked with 0.4.13).
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flagdeploy.errors import EvalError
from flagdeploy.evals.readers.samples import (
    Row,
    Samples,
    answer,
    digest,
    fraction,
    json_file,
    json_lines,
    only,
    reading,
)

TOOL = "lm-eval"
IDENTITY = "lm-eval's hashes of document, prompt and target"
KEYS = {"doc_hash", "prompt_hash", "target_hash", "filter", "metrics", "filtered_resps"}
INVALID = "[invalid]"  # the fallback of lm_eval/filters/extraction.py

_NAME = re.compile(r"samples_(?P<task>.+)_(?P<time>\d{4}-\d\d-\d\dT[\d.:-]+)\.jsonl")
# What the columns of well-known data sets call the question and its subject.
_QUESTION = ("question", "problem", "Question", "Problem", "query", "prompt", "input")
_SUBJECT = ("subject", "topic", "category", "subject_name")


def is_row(row: Mapping[str, Any]) -> bool:
    return row.keys() >= KEYS


def is_folder(path: Path) -> bool:
    return any(True for _ in _sample_files(path))


def read(path: Path, filter_name: str | None = None) -> Samples:
    """The samples of a file, or of the newest run of each task in an output folder.

    Of several filters the first of the file counts, or `filter_name`: ``FILTER`` or, of several
    metrics, ``METRIC,FILTER`` as the tool's tables have it; else the first metric in [0, 1].
    Raises EvalError with ``file:line`` for what is no such row, and for a filter not there.
    """
    files = _newest(path) if path.is_dir() else {_task(path): path}
    results = {task: _results(file) for task, file in files.items()}
    rows: list[Row] = []
    graders: dict[str, str] = {}
    for task, file in files.items():
        found, graders[task] = _of_file(file, task, filter_name)
        rows += _grouped(found, task, results[task])
    last = next(reversed(results.values()))
    said = set(graders.values())
    grader = said.pop() if len(said) == 1 else ", ".join(f"{t}: {g}" for t, g in graders.items())
    return Samples(
        name=str(path),
        tool=TOOL,
        version=str(last.get("lm_eval_version", "unknown")),
        identity=IDENTITY,
        grader=f"{TOOL} {grader}",
        rows=tuple(rows),
        limited=_limited(results),
        facts=_facts(last, results),
    )


def _sample_files(folder: Path) -> Iterator[tuple[re.Match[str], Path]]:
    """Those of an output folder or of a model's folder in it."""
    for file in sorted([*folder.glob("samples_*.jsonl"), *folder.glob("*/samples_*.jsonl")]):
        if match := _NAME.fullmatch(file.name):
            yield match, file


def _newest(folder: Path) -> dict[str, Path]:
    found = sorted(_sample_files(folder), key=lambda row: row[0]["time"])
    only(sorted({file.parent for _, file in found}), folder, "samples")
    return {match["task"]: file for match, file in found}


def _task(file: Path) -> str:
    match = _NAME.fullmatch(file.name)
    return match["task"] if match else file.stem


def _results(samples: Path) -> dict[str, Any]:
    """The aggregated results written beside `samples`; empty when they are not there."""
    match = _NAME.fullmatch(samples.name)
    beside = samples.with_name(f"results_{match['time']}.json") if match else samples
    found = json_file(beside) if match and beside.is_file() else {}
    return found if isinstance(found, dict) else {}


def _grouped(rows: list[Row], task: str, results: Mapping[str, Any]) -> list[Row]:
    """`rows` of a task that belongs to a group, such as MMLU's 57 subjects, as its subject."""
    groups = results.get("group_subtasks") or {}
    above = {inner: group for group, tasks in groups.items() for inner in tasks}
    root = task
    while root in above:
        root = above.pop(root)
    if root == task:
        return rows
    return [replace(row, answer=replace(row.answer, task=root), cluster=task) for row in rows]


def _of_file(file: Path, task: str, filter_name: str | None) -> tuple[list[Row], str]:
    lines = list(json_lines(file))
    for where, row in lines:
        if not is_row(row):
            missing = ", ".join(sorted(KEYS - row.keys()))
            raise EvalError(f"{where}: not a sample of lm-eval: has no {missing}")
    filters = list(dict.fromkeys(str(row["filter"]) for _, row in lines))
    metric, _, wanted = (filter_name or (filters or [""])[0]).rpartition(",")
    if wanted not in filters:
        raise EvalError(
            f"{file}: has no answers of filter `{wanted}`",
            hint=f"there are: {', '.join(filters) or 'none'}",
        )
    chosen = [(where, row) for where, row in lines if row["filter"] == wanted]
    metric = metric or _metric(*chosen[0])
    rows = []
    for where, row in chosen:
        with reading(where, "a sample of lm-eval"):
            rows.append(_row(task, row, metric))
    return rows, f"{metric} (filter {wanted})"


def _metric(where: str, row: Mapping[str, Any]) -> str:
    for metric in row["metrics"]:
        try:
            fraction(row.get(metric))
        except ValueError:
            continue
        return str(metric)
    raise EvalError(f"{where}: none of its metrics is between 0 and 1: {', '.join(row['metrics'])}")


def _row(task: str, row: Mapping[str, Any], metric: str) -> Row:
    doc = row["doc"] if isinstance(row["doc"], dict) else {}
    turns = _turns(row)
    question = next((doc[key] for key in _QUESTION if isinstance(doc.get(key), str)), turns[-1])
    subject = next((doc[key] for key in _SUBJECT if isinstance(doc.get(key), str)), "")
    text, prediction = _said(row)
    item = digest(row["doc_hash"], row["prompt_hash"], row["target_hash"])
    return Row(
        answer(
            item,
            task,
            status="unparsed" if prediction is None else "ok",
            gold=_gold(row),
            score=fraction(row[metric]),
            prediction=prediction,
            content=text,
        ),
        question=question,
        prompt="\n".join(turns),
        cluster=subject,
    )


def _turns(row: Mapping[str, Any]) -> list[str]:
    """The texts that were sent; chat prompts are stored as JSON in a list of one."""
    first = [*row["arguments"].values()][0]["arg_0"]
    text = first[0] if isinstance(first, list) else first
    try:
        return [str(turn["content"]) for turn in json.loads(text)]
    except (ValueError, TypeError, KeyError):
        return [str(text)]


def _is_choice(row: Mapping[str, Any]) -> bool:
    """Choices are scored by log-likelihood: per choice one (log-likelihood, is greedy)."""
    return "arg_1" in row["arguments"].get("gen_args_1", {}) and len(row["resps"]) > 1


def _said(row: Mapping[str, Any]) -> tuple[str, str | None]:
    """The first reply in full, and what the filter made of it, None where it found no answer."""
    if _is_choice(row):
        likely = [float(choice[0]) for choice in row["filtered_resps"]]
        return "", _letter(likely.index(max(likely)))
    reply: Any = row["resps"][0]
    while isinstance(reply, list):
        reply = reply[0]
    found: Any = row["filtered_resps"][0]
    while isinstance(found, list):
        found = found[0]
    return str(reply), None if found in (INVALID, "") else str(found)


def _gold(row: Mapping[str, Any]) -> str:
    """The target; of a worked solution as in GSM8K, what it comes to."""
    target = str(row["target"]).rpartition("#### ")[2]
    return _letter(int(target)) if _is_choice(row) and target.isdecimal() else target


def _letter(index: int) -> str:
    return chr(ord("A") + index)


def _limited(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Which tasks were asked in part; `results` by task."""
    counts = {task: found.get("n-samples", {}).get(task, {}) for task, found in results.items()}
    cut = [
        f"{count['effective']} of {count['original']} of {task}"
        for task, count in counts.items()
        if count and count["effective"] < count["original"]
    ]
    return ", ".join(cut)


def _facts(results: Mapping[str, Any], tasks: Iterable[str]) -> dict[str, Any]:
    config = results.get("config", {})
    known = {
        "model": results.get("model_name"),
        "backend": config.get("model"),
        "gen_kwargs": config.get("gen_kwargs"),
        "chat_template_sha": results.get("chat_template_sha"),
        "system_instruction": results.get("system_instruction"),
        "tasks": {
            task: {"version": results["versions"].get(task), "shots": results["n-shot"].get(task)}
            for task in tasks
            if "versions" in results and "n-shot" in results
        },
    }
    return {key: value for key, value in known.items() if value}
