"""The plan of a comparison as text, from the data that `workflows.compare_plan` gives."""

from collections.abc import Mapping
from typing import Any

COLUMNS = (
    "benchmark",
    "questions",
    "margin",
    "flips",
    "power",
    "needed",
    "times",
    "tokens",
    "time",
)


def text(plan: Mapping[str, Any]) -> str:
    """A table of benchmarks and what its columns mean."""
    rows = [COLUMNS, *(_row(row) for row in plan["rows"])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = [f"To show a faithful deployment the same as {plan['baseline']}:", ""]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
    lines += [
        "",
        f"power: chance that one answer to each question decides; needed: answers for "
        f"{plan['power']:.0%},",
        "which takes asking each question so many times, with sampling: greedy repeats are copies.",
        "flips: share of questions expected to change between two runs of one model.",
        f"time: at {plan['speed']:g} tokens/s per request, {plan['concurrency']} at once.",
    ]
    if plan["sequences"]:
        lines.append(
            f"Teacher forcing scores {plan['sequences']} sequences of {plan['scored_tokens']} "
            "tokens beside this."
        )
    if len(plan["rows"]) > 1:
        lines.append("A PASS needs the pool of all benchmarks; a single one can only fail it.")
    return "\n".join(lines)


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    tokens, minutes = row["tokens"], row["minutes"]
    return (
        row["name"],
        str(row["n"]),
        f"{100 * row['margin']:.2f} pp",
        f"{row['discordance']:.1%}",
        f"{row['power']:.0%}",
        str(row["needed"]),
        str(row["repeats"]),
        "unknown" if tokens is None else str(tokens),
        "unknown" if minutes is None else _time(minutes),
    )


def _time(minutes: float) -> str:
    return f"{minutes / 60:.1f} h" if minutes >= 120 else f"{minutes:.1f} min"
