"""The plan of a comparison as text, from the data that `workflows.compare_plan` gives."""

from collections.abc import Iterator, Mapping, Sequence
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
SUITE_COLUMNS = ("suite", "questions", "times", "tokens", "time", "scored", "against itself")


def text(plan: Mapping[str, Any]) -> str:
    """A table of benchmarks and what its columns mean."""
    rows = [COLUMNS, *(_row(row) for row in plan["rows"])]
    lines = [
        f"To show a faithful deployment the same as {plan['baseline']}:",
        "",
        *_aligned(rows),
        "",
        f"power: chance that one answer to each question decides; needed: answers for "
        f"{plan['power']:.0%},",
        "which takes asking each question so many times, with sampling: greedy repeats are copies.",
        "flips: share of questions expected to change between two runs of one model.",
        f"time: at {plan['speed']:g} tokens/s per request, {plan['concurrency']} at once.",
    ]
    lines += ["", "The suites ask:", "", *_aligned([SUITE_COLUMNS, *map(_suite, plan["suites"])])]
    if plan["sequences"]:
        lines.append(
            "scored: tokens that teacher forcing scores beside this, in no more than a prefill."
        )
    if len(plan["rows"]) > 1:
        lines.append("A PASS needs the pool of all benchmarks; a single one can only fail it.")
    return "\n".join(lines)


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def _suite(row: Mapping[str, Any]) -> tuple[str, ...]:
    times = row["repeats"]
    minutes, least = row["minutes"], row["least_minutes"]
    span = "unknown" if minutes is None else _time(minutes)
    return (
        row["name"],
        str(row["questions"]),
        str(times[0]) if len(times) == 1 else f"{times[0]} to {times[-1]}",
        "unknown" if row["tokens"] is None else str(row["tokens"]),
        span if len(times) == 1 or least is None else f"{_time(least)} to {span}",
        f"{row['scored_tokens']} in {row['sequences']} sequences" if row["sequences"] else "none",
        "yes" if row["own_floor"] else "no",
    )


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
