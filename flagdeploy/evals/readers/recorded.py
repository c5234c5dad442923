"""Our own records as samples: `answers.jsonl` of a run, and a baseline bundle.

A run's log holds replies and no grades; the questions of a bundle on the other side grade them.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flagdeploy.errors import EvalError
from flagdeploy.evals.answers import MISSING, Answer, by_shape, graded
from flagdeploy.evals.bundle import Bundle
from flagdeploy.evals.items import Item
from flagdeploy.evals.readers.samples import Row, Samples, answer, json_lines, reading
from flagdeploy.evals.record import Record, read_row

TOOL = "flagdeploy"
IDENTITY = "flagdeploy's hash of benchmark, prompt and right answer"
NAME = "answers.jsonl"
KEYS = {"request", "item", "task", "status", "repeat", "content", "reasoning"}
GRADER = "flagdeploy, the rule of the question's shape"


def is_row(row: Mapping[str, Any]) -> bool:
    return row.keys() >= KEYS


def read(path: Path) -> Samples:
    """The replies of a log; the last of a request counts, for failed ones are asked again."""
    rows = {}
    for where, row in json_lines(path, torn=True):
        if not is_row(row):
            raise EvalError(f"{where}: not a record of flagdeploy")
        with reading(where, "a record of flagdeploy"):
            record = read_row(row)
        if record is None:
            raise EvalError(f"{where}: of another version of flagdeploy")
        rows[record.request] = Row(_ungraded(record))
    return Samples(
        name=str(path),
        tool=TOOL,
        version="unknown",
        identity=IDENTITY,
        grader="",
        rows=tuple(rows.values()),
        cut_known=True,
    )


def _ungraded(record: Record) -> Answer:
    found = answer(
        record.item,
        record.task,
        status=record.status,
        gold="",
        score=None,
        content=record.text,
        completion_tokens=record.completion_tokens,
        token_ids=record.token_ids,
        finish_reason=record.finish_reason,
    )
    return replace(found, error=record.error, repeat=record.repeat)


def of_bundle(bundle: Bundle) -> Samples:
    rows = (
        Row(
            answer,
            question=item.messages[-1]["content"],
            prompt="\n".join(message["content"] for message in item.messages),
            cluster="" if item.cluster == item.key else item.cluster,
        )
        for item, answer in _answers(bundle)
    )
    return Samples(
        name=bundle.name,
        tool=TOOL,
        version=str(bundle.manifest["flagdeploy"]),
        identity=IDENTITY,
        grader=GRADER,
        rows=tuple(rows),
        cut_known=True,
        greedy=bundle.manifest["sampling"]["temperature"] == 0,
        items={item.key: item for item in bundle.items},
        facts=bundle.manifest,
    )


def _answers(bundle: Bundle) -> list[tuple[Item, Answer]]:
    """Every answer, repeats too, with its question."""
    items = {item.key: item for item in bundle.items}
    return [(items[answer.item], answer) for answer in bundle.answers]


def regraded(item: Item, answer: Answer) -> Answer:
    """`answer` as the rule of `item` grades its text."""
    record = Record(
        request=answer.request,
        item=answer.item,
        task=answer.task,
        repeat=answer.repeat,
        status=answer.status if answer.status in ("refused", *MISSING) else "ok",
        http=answer.http,
        content=answer.content,
        reasoning="",
        finish_reason=answer.finish_reason,
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        attempts=answer.attempts,
        sent=answer.sent,
        ended=answer.ended,
        error=answer.error,
        token_ids=answer.token_ids,
    )
    return graded(item, record, by_shape)
