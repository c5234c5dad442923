"""Published scores: one number per benchmark, as papers and model cards give them.

Read from YAML (`env/baselines/h100.yaml`) or CSV. Model cards write a score as ``95.75``,
``0.9575``, ``95.75%``, ``23/30``, ``76.67(+-0.67)``, ``TBD`` or ``-``; all of these are understood.
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flagdeploy.errors import UsageError


@dataclass(frozen=True)
class Score:
    """A published accuracy as a fraction of one; `n` questions, None when nobody said.

    `reproduced`: whether some whole number of n right answers rounds to what was printed. If
    not, the score is a mean over several runs, or n is not what it is said to be.
    """

    value: float
    n: int | None
    reproduced: bool = True

    @property
    def right(self) -> int:
        assert self.n is not None
        return round(self.value * self.n)


@dataclass(frozen=True)
class Row:
    """One benchmark on both sides; a side without a score is None."""

    task: str
    baseline: Score | None
    candidate: Score | None


@dataclass(frozen=True)
class Table:
    """The scores of one deployment, with where they were published."""

    name: str
    title: str
    source: str
    scores: Mapping[str, Score | None]


def read_table(path: Path) -> Table:
    """A YAML table: `title`, `source` and `scores: {TASK: {n: 1319, value: 95.75}}`."""
    data = _plain(path)
    rows = data.get("scores") if isinstance(data, dict) else None
    if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
        raise UsageError(
            f"{path}: a table of published scores has `scores: {{TASK: {{n, value}}}}`"
        )
    cells = {task: (row.get("value"), row.get("n")) for task, row in rows.items()}
    scale = _scale(value for value, _ in cells.values())
    return Table(
        name=path.stem,
        title=str(data.get("title", path.stem)),
        source=str(data.get("source", "")),
        scores={task: parse_score(value, n, scale) for task, (value, n) in cells.items()},
    )


def pair_tables(baseline: Table, candidate: Table) -> list[Row]:
    """Rows of every benchmark that either table names, in the baseline's order."""
    theirs = {normalized(task): score for task, score in candidate.scores.items()}
    return [
        Row(task, score, theirs.get(normalized(task))) for task, score in baseline.scores.items()
    ]


def read_pairs(path: Path) -> list[Row]:
    """Both sides from one file: CSV or YAML rows of task, n, base, cand."""
    rows = _plain(path)
    needed = {"task", "base", "cand"}
    whole = isinstance(rows, list) and all(isinstance(r, dict) and needed <= r.keys() for r in rows)
    if not rows or not whole:
        raise UsageError(f"{path}: needs the columns task,n,base,cand")
    scale = _scale(row[side] for row in rows for side in ("base", "cand"))
    return [
        Row(
            str(row["task"]).strip(),
            parse_score(row["base"], row.get("n"), scale),
            parse_score(row["cand"], row.get("n"), scale),
        )
        for row in rows
    ]


def _plain(path: Path) -> Any:
    """What a CSV (a list of rows) or YAML file holds."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".csv":
            return list(csv.DictReader(io.StringIO(text), skipinitialspace=True))
        return yaml.safe_load(text)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is not text in UTF-8") from None
    except (csv.Error, yaml.YAMLError) as error:
        raise UsageError(f"{path}: {' '.join(str(error).split())}") from None


def _count(n: Any) -> int | None:
    """How many questions, None where nothing is said."""
    if n in (None, ""):
        return None
    text = str(n).strip()
    if not text.isdecimal() or not int(text):
        raise UsageError(f"`{text}` is not a number of questions")
    return int(text)


def parse_score(text: Any, n: Any = None, scale: float = 100.0) -> Score | None:
    """One cell, or None where it holds no score; `scale` is 1 for a table of fractions."""
    cell = str(text).strip().strip("*").strip()
    count = _count(n)
    if fraction := re.fullmatch(r"(\d+)\s*/\s*(\d+)", cell):
        right, of = int(fraction[1]), int(fraction[2])
        if right > of or not of:
            raise UsageError(f"`{cell}` is more than all of the questions")
        return Score(right / of, of)
    number = re.match(r"(\d+(?:\.(\d+))?)\s*(%?)\s*(?:$|\(?\s*(?:\+-|\+/-|\u00b1))", cell)
    if number is None:
        if re.fullmatch(r"(?i)tbd|n/?a|none|-*|\u2014", cell):
            return None
        raise UsageError(f"`{cell}` is not a score", hint="for example 95.75, 0.9575, 23/30 or TBD")
    scale = 100.0 if number[3] else scale
    value = float(number[1]) / scale
    if value > 1.0:
        raise UsageError(f"`{cell}` is more than all of the questions")
    decimals = len(number[2] or "")
    reproduced = count is None or (
        abs(round(value * count) / count - value) * scale <= 0.5 * 10.0**-decimals + 1e-9
    )
    return Score(value, count, reproduced)


def _scale(cells: Iterable[Any]) -> float:
    """1 when every number of a table is at most 1 (scores as fractions), else 100 (per cent)."""
    found = [re.fullmatch(r"\**(\d+(?:\.\d+)?)\b[^/]*", str(cell).strip()) for cell in cells]
    numbers = [float(match[1]) for match in found if match]
    return 1.0 if numbers and max(numbers) <= 1.0 else 100.0


def normalized(task: str) -> str:
    """``C-Eval``, ``CEVAL`` and ``ceval`` are one; a metric in brackets is no part of the name."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r"\(.*?\)", "", task.lower()))
