"""`reviews/MODEL/BENCHMARK_SUBSET.jsonl` of evalscope, with `predictions/` of the same name beside.

One row per question and repeat. Questions whose request failed are in neither file when the run
ignored errors. Source: evalscope/api/evaluator/cache.py and evalscope/api/metric/scorer.py
(checked with 1.14.1; rows of 1.0 differ in the name of the metric and in `target` only).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from flagdeploy.errors import EvalError
from flagdeploy.evals.readers.samples import (
    Row,
    Samples,
    answer,
    digest,
    fraction,
    json_lines,
    only,
    reading,
    text_of,
)

TOOL = "evalscope"
IDENTITY = "the whole prompt and the target"
KEYS = {"index", "target", "sample_score"}


def is_row(row: Mapping[str, Any]) -> bool:
    return row.keys() >= KEYS


def is_folder(path: Path) -> bool:
    return bool(_runs(path))


def read(path: Path) -> Samples:
    """The reviews of one file, or of every benchmark in an output folder.

    Raises EvalError with ``file:line`` for what is no review, and for a folder of several runs.
    """
    files = _files(path) if path.is_dir() else [path]
    root = _root(files[0])
    config = _config(root)
    names = {file: _benchmark(file, root) for file in files}
    subsets: dict[str, set[str]] = {}
    for task, subset in names.values():
        subsets.setdefault(task, set()).add(subset)
    rows: list[Row] = []
    graders: dict[str, str] = {}
    for file in files:
        task, subset = names[file]
        ended = _predictions(file, root)
        cluster = subset if len(subsets[task]) > 1 else ""
        for where, row in json_lines(file):
            if not is_row(row):
                missing = ", ".join(sorted(KEYS - row.keys()))
                raise EvalError(f"{where}: not a review of evalscope: has no {missing}")
            with reading(where, "a review of evalscope"):
                rows.append(_row(task, row, ended, cluster))
                graders.setdefault(task, _metric(row["sample_score"]["score"]) or "")
    said = list(dict.fromkeys(filter(None, graders.values())))
    limit = config.get("limit")
    return Samples(
        name=str(path),
        tool=TOOL,
        version=str(config.get("evalscope_version", "unknown")),
        identity=f"{TOOL}: {IDENTITY}",
        grader=f"{TOOL} {', '.join(said)}",
        rows=tuple(rows),
        limited=f"limit {limit}" if limit else "",
        cut_known=all(_prediction_file(file, root).is_file() for file in files),
        greedy=(config.get("generation_config") or {}).get("temperature") == 0,
        facts=_facts(config),
    )


def _files(folder: Path) -> list[Path]:
    return sorted(only(_runs(folder), folder, "reviews").glob("*.jsonl"))


def _runs(folder: Path) -> list[Path]:
    """The folders of models in an output folder, or in those of several runs."""
    files = [*folder.glob("reviews/*/*.jsonl"), *folder.glob("*/reviews/*/*.jsonl")]
    return sorted({file.parent for file in files})


def _root(file: Path) -> Path | None:
    """The output folder of a file in its place, None for one that lies elsewhere."""
    return file.parents[2] if file.parent.parent.name == "reviews" else None


def _config(root: Path | None) -> dict[str, Any]:
    path = root / "configs" / "task_config.yaml" if root else None
    if path is None or not path.is_file():
        return {}
    found = yaml.safe_load(text_of(path))
    return found if isinstance(found, dict) else {}


def _benchmark(file: Path, root: Path | None) -> tuple[str, str]:
    """Benchmark and subset of BENCHMARK_SUBSET, either of which may hold underscores.

    The benchmarks of a run are the names of its reports.
    """
    reports = (root / "reports" / file.parent.name).glob("*.json") if root else ()
    known = [path.stem for path in reports if file.stem.startswith(f"{path.stem}_")]
    name = max(known, key=len, default=file.stem)
    return name, file.stem.removeprefix(name).removeprefix("_")


def _prediction_file(file: Path, root: Path | None) -> Path:
    beside = root or file.parent
    return beside / "predictions" / file.parent.name / file.name


def _predictions(file: Path, root: Path | None) -> dict[int, dict[str, Any]]:
    path = _prediction_file(file, root)
    if not path.is_file():
        return {}
    return {row["index"]: row.get("model_output") or {} for _, row in json_lines(path)}


def _row(task: str, row: Mapping[str, Any], ended: Mapping[int, Any], cluster: str) -> Row:
    prompt, reply, tokens = _conversation(row)
    gold = _gold(row["target"])
    score = row["sample_score"]["score"]
    output = ended.get(row["index"], {})
    finish = next((choice.get("stop_reason") for choice in output.get("choices") or []), None)
    metric = _metric(score)
    failed = bool(output.get("error")) or metric is None
    prediction = score.get("extracted_prediction") or None
    status = "unparsed" if prediction is None else "ok"
    if finish == "max_tokens":
        status = "length"
    return Row(
        answer(
            digest(prompt, gold),
            task,
            status="error" if failed else status,
            gold=gold,
            score=None if failed or metric is None else fraction(score["value"][metric]),
            prediction=prediction,
            content=reply or score.get("prediction") or "",
            completion_tokens=tokens or (output.get("usage") or {}).get("output_tokens"),
            finish_reason="length" if finish == "max_tokens" else finish,
        ),
        question=prompt,
        prompt=prompt,
        cluster=cluster,
    )


def _conversation(row: Mapping[str, Any]) -> tuple[str, str, int | None]:
    """Prompt, reply and its tokens; reviews before 1.2 hold the prompt alone, as `input`."""
    turns = row.get("messages") or [{"role": "user", "content": row.get("input", "")}]
    last = turns[-1]
    if last["role"] != "assistant":
        return _joined(turns), "", None
    performance = last.get("perf_metrics") or {}
    return _joined(turns[:-1]), _text(last["content"]), performance.get("output_tokens")


def _joined(turns: list[dict[str, Any]]) -> str:
    return "\n".join(_text(turn["content"]) for turn in turns)


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or part.get("reasoning") or "" for part in content)


def _gold(target: Any) -> str:
    if isinstance(target, list):
        return str(target[0]) if len(target) == 1 else str(target)
    return str(target)


def _metric(score: Mapping[str, Any]) -> str | None:
    """The score's main metric, None where it has none because the scoring failed."""
    named = score.get("main_score_name")
    return named if named in score["value"] else next(iter(score["value"]), None)


def _facts(config: Mapping[str, Any]) -> dict[str, Any]:
    known = {
        "model": config.get("model_id"),
        "generation": config.get("generation_config"),
        "repeats": config.get("repeats"),
        "ignore_errors": config.get("ignore_errors"),
    }
    return {key: value for key, value in known.items() if value}
