"""Results of any number of machines as one Markdown table."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from zoo.rows import ROWS, Row

TITLES = {
    "fault": "Faults: FAIL or DIFFERENT expected",
    "harmless": "Harmless: PASS expected",
    "proof": "Variants whose verdict is the result",
    "limit": "Limits: so mild that `quick` need not see them",
}
LONGEST = 200  # characters of a reason, where it can be cut
Result = dict[str, Any]


def read(files: Iterable[Path]) -> list[Result]:
    """The newest result of each row on each machine."""
    newest: dict[tuple[str, str], Result] = {}
    for file in files:
        for line in file.read_text("utf-8").splitlines():
            result = json.loads(line)
            newest[result["row"], result["machine"]] = result
    return [result for result in newest.values() if result["row"] in ROWS]


def markdown(results: Sequence[Result]) -> str:
    parts = []
    known = {result["row"] for result in results}
    for kind, title in TITLES.items():
        rows = [row for row in ROWS.values() if row.kind == kind and row.name in known]
        lines = [_line(row, [r for r in results if r["row"] == row.name]) for row in rows]
        if lines:
            parts.append("\n".join([f"### {title}", "", *_head(kind), *lines]))
    if missing := [name for name in ROWS if name not in known]:
        parts.append(f"Not run: {', '.join(missing)}.")
    return "\n\n".join([summary(results), *parts]) + "\n"


def summary(results: Sequence[Result]) -> str:
    """How many came out as expected, machine by machine, and which did not."""
    lines = []
    for machine in dict.fromkeys(result["machine"] for result in results):
        mine = [r for r in results if r["machine"] == machine]
        judged = [
            (r, expected)
            for r in mine
            if (expected := ROWS[r["row"]].as_expected(r["verdict"])) is not None
            and r["verdict"] != "SKIPPED"
        ]
        good = dict.fromkeys(("fault", "harmless"), 0)
        total = dict(good)
        for result, as_expected in judged:
            total[ROWS[result["row"]].kind] += 1
            good[ROWS[result["row"]].kind] += as_expected
        line = (
            f"{machine}: {good['fault']} of {total['fault']} faults caught, "
            f"{good['harmless']} of {total['harmless']} harmless changes passed"
        )
        wrong = [f"{r['row']} {r['verdict']}" for r, as_expected in judged if not as_expected]
        lines.append(line + (f"; not as expected: {', '.join(wrong)}" if wrong else ""))
    return "\n".join(lines)


def _head(kind: str) -> list[str]:
    columns = ["deployment", "what was done", "verdict", "first reason", "on", "seconds"]
    if kind == "limit":
        columns.insert(4, "what would decide")
    return [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]


def _line(row: Row, results: Sequence[Result]) -> str:
    results = [r for r in results if r["verdict"] != "SKIPPED"] or list(results)
    verdicts = dict.fromkeys(result["verdict"] for result in results)
    cells = [f"`{row.name}`", row.what]
    if len(verdicts) > 1:
        cells.append(", ".join(f"{r['verdict']} ({r['machine']})" for r in results))
    else:
        cells.append(next(iter(verdicts)))
    cells.append(brief(results[0]["reason"]))
    if row.kind == "limit":
        cells.append(_deciding(results[0]))
    cells.append(", ".join(r["machine"] for r in results))
    cells.append(", ".join(f"{r['seconds']:.0f}" for r in results))
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def brief(sentence: str) -> str:
    """Without what stands in brackets, and of many clauses only the first."""
    short = re.sub(r" \([^()]*\)", "", sentence)
    while len(short) > LONGEST and "; " in short:
        short = short.rpartition("; ")[0]
    return short


def _deciding(result: Result) -> str:
    """Sequences or questions that would decide what is open; none does within the margin."""
    needed = [
        f"{test['name']}: {test['needed_n']} {'sequences' if test['clusters'] else 'questions'}"
        for test in result.get("tests", ())
        if test["needed_n"]
    ]
    if result["verdict"] == "PASS":
        return "nothing: within the margins"
    return "; ".join(needed)
