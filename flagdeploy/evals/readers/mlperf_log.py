"""`mlperf_log_accuracy.json` of MLPerf's LoadGen: token ids by sample index, and nothing else.

Without the data set nobody knows the questions, without the tokenizer the texts. What can be
said of two logs of one benchmark: how many tokens each sample took, and where greedy outputs part.
Source: mlcommons/inference loadgen/logging.cc (LogAccuracy); tokens are int32, little endian.
"""

import json
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flagdeploy.errors import EvalError
from flagdeploy.evals.readers.samples import Row, Samples, answer, json_lines, reading, text_of

TOOL = "MLPerf LoadGen"
IDENTITY = "the sample's index in the benchmark's data set"
NAME = "mlperf_log_accuracy.json"
KEYS = {"qsl_idx", "data"}
TRUNCATED = "\n...\n"  # what the submission's truncate_accuracy_log.py leaves in the middle
HINT = "give what the reference's eval_accuracy.py makes of it, or of the whole log"


def is_row(row: Mapping[str, Any]) -> bool:
    return row.keys() >= KEYS


def read(path: Path) -> Samples:
    """The outputs of an accuracy run; a sample logged twice counts once, as in the reference.

    Raises EvalError with ``file:line`` for what LoadGen does not write, and for a log that was
    truncated for a submission.
    """
    text = text_of(path)
    if TRUNCATED in text:
        raise EvalError(f"{path}: was truncated for a submission, so most samples are gone", HINT)
    rows: dict[int, Row] = {}
    entries = 0
    for where, entry in _entries(path, text):
        entries += 1
        with reading(where, "an entry of LoadGen"):
            rows.setdefault(int(entry["qsl_idx"]), _row(entry))
    if not rows:
        raise EvalError(f"{path}: holds no samples", hint="was it a performance run?")
    facts = {"repeated entries": entries - len(rows)} if entries > len(rows) else {}
    return Samples(
        name=str(path),
        tool=TOOL,
        version=_version(path),
        identity=IDENTITY,
        grader="",
        rows=tuple(rows[index] for index in sorted(rows)),
        facts=facts,
    )


def _entries(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """An array with one entry per line, as LoadGen writes it, or bare JSON lines."""
    if not text.lstrip().startswith("["):
        yield from json_lines(path)
        return
    for number, line in enumerate(text.split("\n"), 1):
        entry = line.strip().strip("[]").removesuffix(",").strip()
        if not entry:
            continue
        where = f"{path}:{number}"
        try:
            found = json.loads(entry)
        except ValueError as error:
            raise EvalError(f"{where}: not JSON: {error}", "was the writing interrupted?") from None
        if not isinstance(found, dict) or not is_row(found):
            raise EvalError(f"{where}: not an entry of LoadGen: has no qsl_idx and data")
        yield where, found


def _row(entry: Mapping[str, Any]) -> Row:
    ids = array("i", bytes.fromhex(entry["data"])).tolist()
    if not ids:
        return Row(answer(f"{entry['qsl_idx']}", "log", status="error", gold="", score=None))
    return Row(
        answer(
            f"{int(entry['qsl_idx'])}",
            "log",
            status="ok",
            gold="",
            score=None,
            completion_tokens=len(ids),
            token_ids=ids,
        )
    )


def _version(path: Path) -> str:
    """LoadGen's, from the detail log that it writes beside."""
    detail = path.with_name("mlperf_log_detail.txt")
    if not detail.is_file():
        return "unknown"
    for line in text_of(detail).splitlines():
        if '"loadgen_version"' in line:
            return str(json.loads(line.removeprefix(":::MLLOG"))["value"]).split(" @")[0]
    return "unknown"
