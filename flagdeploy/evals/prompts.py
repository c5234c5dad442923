"""Files of prompts: text with one per line, or JSONL in the shapes that question files have."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flagdeploy.errors import UsageError
from flagdeploy.evals.items import Message, fill

KEYS = ("messages", "prompt", "question", "problem")


@dataclass(frozen=True)
class Prompt:
    """`where` is ``file:line``; `text` is None for a conversation, which has `messages` only."""

    where: str
    messages: tuple[Message, ...]
    text: str | None


def read_prompts(path: Path) -> list[Prompt]:
    """Every prompt of a file, in order; empty lines are none.

    A name that ends in ``.jsonl`` means objects with ``messages`` (roles and contents), ``prompt``,
    ``question`` (with ``options``, listed below it) or ``problem``; otherwise a line is a prompt.
    Raises UsageError, with ``file:line`` where there is one, for what is none of this and for a
    file without prompts.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8 text: {error}") from None
    prompts = list(_prompts(path, lines))
    if not prompts:
        raise UsageError(f"{path}: holds no prompts", "one per line, or JSONL")
    return prompts


def _prompts(path: Path, lines: list[str]) -> Iterator[Prompt]:
    for number, line in enumerate(lines, 1):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        if path.suffix == ".jsonl":
            yield _of_json(where, line)
        else:
            yield _of_text(where, line)


def _of_text(where: str, text: str) -> Prompt:
    return Prompt(where, ({"role": "user", "content": text},), text)


def _of_json(where: str, line: str) -> Prompt:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{where}: not JSON: {error}") from None
    key = next((key for key in KEYS if isinstance(row, dict) and row.get(key)), None)
    if key is None:
        raise UsageError(f"{where}: has none of {', '.join(KEYS)}")
    value = row[key]
    if key == "messages":
        if not (isinstance(value, list) and all(map(_is_message, value))):
            raise UsageError(f"{where}: messages are not a list of role and content")
        return Prompt(where, tuple(value), None)
    if not isinstance(value, str):
        raise UsageError(f"{where}: {key} is not text")
    options = row.get("options", []) if key == "question" else []
    if not (isinstance(options, list) and all(isinstance(option, str) for option in options)):
        raise UsageError(f"{where}: options are not a list of texts")
    return _of_text(where, fill("{question}", value, options))


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(value.get(key), str) for key in ("role", "content")
    )
