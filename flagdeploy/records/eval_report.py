"""The result of `eval` as text, from its JSON."""

from collections.abc import Mapping
from typing import Any


def text(data: Mapping[str, Any], graders: tuple[str, ...]) -> str:
    """A table of scores by `graders`, the parts of mixed sets below them, then what to know."""
    rows = [["data set", "score", "+/-", "grader", "n", "asked", "what became of the replies"]]
    for result in data["results"]:
        rows += _rows(result, graders)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    notes = [
        f"{result['name']}: {note}"
        for result in data["results"]
        for note in [*_differ(result, graders), *result["notes"]]
    ]
    head = f"{data['endpoint']['model']} at {data['url']}"
    return "\n".join([head, "", *lines, *([""] if notes else []), *notes])


def _rows(result: Mapping[str, Any], graders: tuple[str, ...]) -> list[list[str]]:
    settings = result["settings"]
    asked = f"{result['questions']}"
    if settings["repeats"] > 1:
        asked += f" x {settings['repeats']}"
    rows = _scores(result["name"], result["scores"], graders, asked, _became(result))
    for part, scores in result["parts"].items():
        rows += _scores(f"  {part}", scores, graders, "", "")
    return rows


def _scores(
    name: str, scores: Mapping[str, Any], graders: tuple[str, ...], asked: str, became: str
) -> list[list[str]]:
    shown = [grader for grader in graders if grader in scores]
    # One line says it where both say the same.
    if len(shown) > 1 and len({scores[grader]["score"] for grader in shown}) == 1:
        shown = [" = ".join(shown)]
    rows = []
    for grader in shown:
        found = scores[grader.partition(" ")[0]]
        error = "-" if found["stderr"] is None else f"{100 * found['stderr']:.2f}"
        score = f"{100 * found['score']:.2f}%"
        rows.append([name, score, error, grader, str(found["n"]), asked, became])
        name, asked, became = "", "", ""
    return rows or [[name, "-", "-", "not graded", "0", asked, became]]


def _became(result: Mapping[str, Any]) -> str:
    counts = [f"{count} {status}" for status, count in result["answers"].items() if count]
    tokens = result["mean_tokens"]
    if tokens is not None:
        counts.append(f"{tokens:.1f} tokens on average")
    return ", ".join(counts)


def _differ(result: Mapping[str, Any], graders: tuple[str, ...]) -> list[str]:
    if not result["graders_differ"] or len(graders) < 2:
        return []
    return [f"the two graders differ on {result['graders_differ']} replies"]
