"""Our own records as samples: `answers.jsonl` of a run, and a baseline bundle."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from flagdeploy.evals.answers import Answer
from flagdeploy.evals.bundle import Bundle
from flagdeploy.evals.readers.samples import Row, Samples, converted, json_lines

TOOL = "flagdeploy"
IDENTITY = "benchmark, prompt and right answer"
NAME = "answers.jsonl"
KEYS = {"request", "item", "task", "status", "score", "content"}
GRADER = "flagdeploy"


def is_row(row: Mapping[str, Any]) -> bool:
    return row.keys() >= KEYS


def read(path: Path) -> Samples:
    """The answers of a log; the last of a request counts, for failed ones are asked again."""
    known = {field.name for field in fields(Answer)}
    rows = {}
    for where, row in json_lines(path):
        given = {key: row[key] for key in row.keys() & known}
        made = converted(where, "an answer of flagdeploy", lambda g=given: Row(Answer(**g)))
        rows[made.answer.request] = made
    return Samples(
        name=str(path),
        tool=TOOL,
        version="unknown",
        identity=IDENTITY,
        grader=GRADER,
        rows=tuple(rows.values()),
        cut_known=True,
    )


def of_bundle(bundle: Bundle) -> Samples:
    rows = (
        Row(
            answer,
            question=item.messages[-1]["content"],
            prompt=item.messages[-1]["content"],
            cluster="" if item.cluster == item.key else item.cluster,
        )
        for item, answer in zip(bundle.items, bundle.answers, strict=True)
    )
    manifest = {key: value for key, value in bundle.manifest.items() if key != "name"}
    return Samples(
        name=bundle.name,
        tool=TOOL,
        version=str(bundle.manifest.get("flagdeploy", "unknown")),
        identity=IDENTITY,
        grader=GRADER,
        rows=tuple(rows),
        cut_known=True,
        greedy=(bundle.manifest.get("sampling") or {}).get("temperature") == 0,
        facts=manifest,
    )
