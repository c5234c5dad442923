"""Answers that another tool recorded, in the form that comparisons take."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flagdeploy.errors import EvalError
from flagdeploy.evals.answers import Answer
from flagdeploy.evals.items import Item


@dataclass(frozen=True)
class Row:
    """One answer of one question; `answer.item` is the tool's own hash of its content.

    `question` is the question alone where the tool keeps it, else `prompt`, all that was sent;
    both are empty where the tool keeps neither. `cluster` is its subject, empty without one.
    """

    answer: Answer
    question: str = ""
    prompt: str = ""
    cluster: str = ""


@dataclass(frozen=True)
class Samples:
    """The answers of one run of `tool`, which may be of several benchmarks.

    `identity` says what `answer.item` is a hash of: two runs with the same identity are paired by
    it. `grader` says how right and wrong was decided, empty where it was not. `limited`: why not
    every question of the benchmarks was asked; empty: one without an answer was asked in vain.
    `cut_known`: whether the tool keeps which replies ended at their token limit. `greedy`: whether
    it is known that replies were not sampled. `items` are its questions by key where they can grade
    a reply again. `facts` stand in the report.
    """

    name: str
    tool: str
    version: str
    identity: str
    grader: str
    rows: tuple[Row, ...]
    limited: str = ""
    cut_known: bool = False
    greedy: bool = False
    items: Mapping[str, Item] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def answers(self) -> tuple[Answer, ...]:
        return tuple(row.answer for row in self.rows)

    def about(self) -> dict[str, Any]:
        """This side of a report."""
        known = {"tool": self.tool, "version": self.version, "grader": self.grader}
        return {**self.facts, "name": self.name, **known}


def answer(
    item: str,
    task: str,
    *,
    status: str,
    gold: str,
    score: float | None,
    prediction: str | None = None,
    content: str = "",
    completion_tokens: int | None = None,
    token_ids: list[int] | None = None,
    finish_reason: str | None = None,
) -> Answer:
    """An answer of which the request is not known, only what became of it."""
    return Answer(
        request="",
        item=item,
        task=task,
        status=status,
        prediction=prediction,
        gold=gold,
        score=score,
        content=content,
        finish_reason=finish_reason,
        prompt_tokens=None,
        completion_tokens=completion_tokens,
        http=None,
        attempts=0,
        sent=0.0,
        ended=0.0,
        token_ids=token_ids,
    )


def digest(*parts: str) -> str:
    """The first 16 hex digits of sha256 over `parts` and where they end."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def json_lines(path: Path, torn: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object of a JSONL file with its ``file:line``; EvalError for a line that is none.

    With `torn` a last line without its end is left out: a killed run leaves one.
    """
    text = text_of(path)
    for number, line in enumerate(text[: text.rfind("\n") + 1 if torn else None].split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise EvalError(f"{where}: not JSON: {error}", "was the writing interrupted?") from None
        if not isinstance(row, dict):
            raise EvalError(f"{where}: is no JSON object")
        yield where, row


def json_file(path: Path) -> Any:
    try:
        return json.loads(text_of(path))
    except ValueError as error:
        raise EvalError(f"{path}: not JSON: {error}") from None


def text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise EvalError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise EvalError(f"{path}: is not UTF-8 text: {error}") from None


@contextmanager
def reading(where: str, what: str) -> Iterator[None]:
    """Errors over a row that is not `what` become an EvalError at `where`."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise EvalError(f"{where}: not {what}: {type(error).__name__} {error}") from None


def fraction(value: Any) -> float:
    """A score in [0, 1]; ValueError for anything else."""
    if isinstance(value, bool | int | float) and 0 <= value <= 1:
        return float(value)
    raise ValueError(f"`{value}` is no score between 0 and 1")


def only(candidates: list[Path], where: Path, what: str) -> Path:
    """The one of `candidates`; EvalError naming all where there are several."""
    if len(candidates) > 1:
        raise EvalError(
            f"{where}: holds {what} of {len(candidates)} runs: "
            f"{', '.join(sorted(str(path.relative_to(where)) for path in candidates))}",
            hint="name one of them",
        )
    return candidates[0]
