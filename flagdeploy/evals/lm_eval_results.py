"""Results in the files of lm-evaluation-harness 0.4, for what reads those.

``FOLDER/MODEL/results_DATE.json`` and ``samples_TASK_DATE.jsonl``, one row per question and grader
(lm_eval/loggers/evaluation_tracker.py; hashes as lm_eval/evaluator.py makes them).
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from flagdeploy.evals.scores import RULES, Judged, Result, Rule, by_question
from flagdeploy.records.files import write_private

METRIC = "exact_match"


def write(
    folder: Path,
    model: str,
    url: str,
    results: Sequence[Result],
    about: dict[str, Any],
    when: datetime,
) -> Path:
    """Write all files and return the path of the results. `about` are further keys of those."""
    place = folder / re.sub(r"[\"<>:/|\\?*\[\]]+", "__", model)
    place.mkdir(parents=True, exist_ok=True)
    stamp = when.isoformat().replace(":", "-")
    for result in results:
        lines = [json.dumps(row, ensure_ascii=False) for row in _samples(result)]
        path = place / f"samples_{result.name}_{stamp}.jsonl"
        write_private(path, "".join(line + "\n" for line in lines).encode())
    path = place / f"results_{stamp}.json"
    data = {**_results(results), **_config(model, url, results), "date": when.timestamp(), **about}
    write_private(path, (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode())
    return path


def _results(results: Sequence[Result]) -> dict[str, Any]:
    names = [result.name for result in results]
    return {
        "results": {result.name: _numbers(result) for result in results},
        "group_subtasks": {name: [] for name in names},
        "configs": {result.name: _task(result) for result in results},
        "versions": dict.fromkeys(names, "flagdeploy"),
        "n-shot": dict.fromkeys(names, 0),
        "higher_is_better": {name: {METRIC: True} for name in names},
        "n-samples": {
            result.name: {"original": result.questions, "effective": result.questions}
            for result in results
        },
    }


def _numbers(result: Result) -> dict[str, Any]:
    numbers: dict[str, Any] = {
        "alias": result.name,
        "name": result.name,
        "sample_len": result.questions,
    }
    for rule in RULES:
        if found := result.score(rule):
            error = found.mean.se
            numbers[f"{METRIC},{rule}"] = found.mean.value
            numbers[f"{METRIC}_stderr,{rule}"] = error if math.isfinite(error) else "N/A"
    return numbers


def _task(result: Result) -> dict[str, Any]:
    settings = result.settings
    given = ("temperature", "top_p", "max_tokens")
    sampling = {key: settings[key] for key in given if settings.get(key) is not None}
    return {
        "task": result.name,
        "output_type": "generate_until",
        "num_fewshot": 0,
        "repeats": settings.get("repeats", 1),
        "doc_to_text": settings.get("prompt", ""),
        "generation_kwargs": sampling,
        "metric_list": [{"metric": METRIC, "aggregation": "mean", "higher_is_better": True}],
        "filter_list": [{"name": rule} for rule in RULES if result.score(rule)],
        "metadata": {"sha256": settings.get("sha256")},
    }


def _config(model: str, url: str, results: Sequence[Result]) -> dict[str, Any]:
    return {
        "config": {
            "model": "local-chat-completions",
            "model_args": f"model={model},base_url={url}/chat/completions",
            "batch_size": 1,
            "limit": None,
            "gen_kwargs": None,
            "bootstrap_iters": 0,
        },
        "git_hash": None,
        "model_source": "local-chat-completions",
        "model_name": model,
        "model_name_sanitized": re.sub(r"[\"<>:/|\\?*\[\]]+", "__", model),
        "chat_template": None,
        "system_instruction": None,
        "task_hashes": {result.name: _task_hash(result) for result in results},
    }


def _task_hash(result: Result) -> str:
    keys = sorted({one.item.key for one in result.judged})
    return _sha256("".join(keys))


def _samples(result: Result) -> Iterator[dict[str, Any]]:
    """Rows in the order of the questions, for each rule that there is; a question of which no
    reply was graded has none."""
    for number, repeats in enumerate(by_question(result.judged)):
        for rule in RULES:
            graded = [one for one in repeats if _score(one, rule) is not None]
            if graded:
                yield _sample(number, graded, rule, result.settings)


def _score(one: Judged, rule: Rule) -> float | None:
    grade = one.grade(rule)
    return grade.score if grade else None


def _sample(
    number: int, repeats: Sequence[Judged], rule: Rule, settings: dict[str, Any]
) -> dict[str, Any]:
    item = repeats[0].item
    prompt = json.dumps(list(item.messages), ensure_ascii=False)
    doc = {"question": item.messages[-1]["content"], "answer": item.gold}
    if item.cluster not in ("", item.key):
        doc["subject"] = item.cluster
    grades = [grade for one in repeats if (grade := one.grade(rule))]
    scores = [grade.score or 0.0 for grade in grades]
    sampling = {key: settings.get(key) for key in ("temperature", "top_p", "max_tokens")}
    return {
        "doc_id": number,
        "doc": doc,
        "target": item.gold,
        "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": json.dumps(sampling)}},
        "resps": [[one.answer.content for one in repeats]],
        "filtered_resps": [grade.prediction or "[invalid]" for grade in grades],
        "filter": rule,
        "metrics": [METRIC],
        "doc_hash": _sha256(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": _sha256(prompt),
        "target_hash": _sha256(item.gold),
        METRIC: math.fsum(scores) / len(scores),
        "finish_reasons": [one.answer.finish_reason for one in repeats],
        "completion_tokens": [one.answer.completion_tokens for one in repeats],
    }


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
