"""Rows of a question file, by what its name ends in: each a mapping of column to value.

::

    .jsonl .json      objects, one per line or in a list
    .csv .tsv         with or without a header; a .tsv has no quotes
    .parquet          through pyarrow (extra `parquet`)
    .pkl              a DataFrame of pandas, read as data
"""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flagdeploy.errors import EvalError, UsageError
from flagdeploy.formats import data_frame


def read(path: Path, columns: tuple[str, ...] = ()) -> Iterator[dict[str, Any]]:
    """Every row of `path`, in order, one at a time where the format allows.

    `columns` name the cells of a .csv or .tsv whose first line is no header: lacks one of
    these names. Raises EvalError, with the line where there is one, for a file that is not what
    its name says; UsageError for a name that says nothing, and when pyarrow is wanted but absent.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UsageError(
            f"{path}: how is it to be read?", hint=f"its name may end in {' '.join(_READERS)}"
        )
    try:
        yield from reader(path, columns)
    except OSError as error:
        raise EvalError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, csv.Error) as error:
        raise EvalError(f"{path}: {error}", "is it whole?") from None


def _jsonl(path: Path, _: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _object(json.loads(line), f"line {number}")


def _json(path: Path, _: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    listed = json.loads(path.read_bytes())
    if not isinstance(listed, list):
        raise ValueError("is no list of questions")
    for number, row in enumerate(listed, 1):
        yield _object(row, f"element {number}")


def _object(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(f"{where} is no object")
    return row


def _csv(path: Path, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from _table(csv.reader(file), columns)


def _tsv(path: Path, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        yield from _table((line.rstrip("\r\n").split("\t") for line in file), columns)


def _table(lines: Iterator[list[str]], columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    header = next(lines, [])
    known = {cell.strip().lower() for cell in header}
    if columns and not {column.lower() for column in columns} <= known:
        yield dict(zip(columns, header, strict=False))
        header = list(columns)
    for cells in lines:
        if any(cells):
            yield dict(zip(header, cells, strict=False))


def _parquet(path: Path, _: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise UsageError(
            f"{path}: reading parquet needs pyarrow", hint="pip install 'flagdeploy[parquet]'"
        ) from None
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=256):
            yield from batch.to_pylist()


def _pickle(path: Path, _: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    columns = data_frame.read_columns(path)
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


_READERS = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
    ".pkl": _pickle,
}
