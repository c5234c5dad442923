"""The whole report as Markdown."""

from collections.abc import Iterator, Sequence
from typing import Any

from flagdeploy.records.report.legible import Piece, excerpts
from flagdeploy.records.report.methods import used
from flagdeploy.records.report.tiers import tiers
from flagdeploy.records.report.wording import (
    STATUSES,
    Result,
    Test,
    about,
    explained,
    headline,
    leaves,
    p_value,
    row,
    statement,
    with_unit,
)

HEAD = (
    "test",
    "verdict",
    "estimate",
    "interval",
    "margin",
    "n",
    "baseline's own",
    "p, beyond the margin",
)


def report(result: Result) -> str:
    """Verdict, tests, what would decide them, tiers, answers, flips, both sides, and methods."""
    parts = [
        f"# {plain(headline(result))}",
        plain(statement(result)),
        plain(about(result)),
        "## Tests",
        table(HEAD, [_row(test) for test in result["tests"]]),
        "\n".join(f"- **{plain(t['name'])}**: {plain(explained(t))}" for t in result["tests"]),
        "## Tiers",
        table(
            ("tier", "ran", "why", "would show"),
            [(t.name, "yes" if t.ran else "no", t.why, t.shows) for t in tiers(result)],
        ),
        *_answers(result),
        *_flips(result),
        *_sides(result),
        "## Methods",
        "\n".join(f"- {method.what} {method.source}." for method in used(result)),
    ]
    return "\n\n".join(parts)


def _row(test: Test) -> tuple[str, ...]:
    own = test.get("floor")
    return (*row(test), with_unit(own, test["unit"]), p_value(test["p"]))


def plain(text: Any) -> str:
    """One line in which nothing becomes code, HTML, a link or another cell of a table."""
    escaped = "".join(f"\\{c}" if c in "\\`<|" else c for c in str(text))
    return escaped.replace("](", "]\\(").replace("\n", " ")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(plain(cell) for cell in line) + " |" for line in lines)


def _answers(result: Result) -> Iterator[str]:
    if not result["answers"]:
        return
    yield "## Answers"
    columns = list(next(iter(result["answers"].values())))
    rows = [
        [side, *(str(counts[column]) for column in columns)]
        for side, counts in result["answers"].items()
    ]
    yield table(["side", *columns], rows)
    yield "\n".join(f"- `{status}`: {meaning}" for status, meaning in STATUSES.items())


def _flips(result: Result) -> Iterator[str]:
    if not result["flip_count"]:
        return
    yield "## Flips"
    count, shown = result["flip_count"], len(result["flips"])
    yield f"{count} questions are right on one side only; the first {shown}:"
    for flip in result["flips"]:
        name = f"{plain(flip['task'])} {plain(flip['item'])}"
        yield f"### {name}, the answer is {plain(flip['gold'])}"
        if flip.get("question"):
            yield _quoted(flip["question"])
        sides = ("baseline", "candidate")
        texts = excerpts(flip["baseline"]["content"], flip["candidate"]["content"])
        for side, pieces in zip(sides, texts, strict=True):
            answer = flip[side]
            mark = "right" if answer["score"] else "wrong"
            found = plain(answer["prediction"]) if answer["prediction"] is not None else "no answer"
            yield f"{side.capitalize()}: {found}, {mark}, {answer['status']}"
            yield _quoted(_joined(pieces))


def _joined(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def _quoted(content: str) -> str:
    # Indented as code: whatever a model wrote, it stays text.
    return "\n".join(f"    {line}" for line in content.split("\n")) if content else "    (empty)"


def _sides(result: Result) -> Iterator[str]:
    if result["differences"]:
        yield "## What differs between the sides"
        rows = [
            [row["key"], str(row["baseline"]), str(row["candidate"])]
            for row in result["differences"]
        ]
        yield table(("fact", "baseline", "candidate"), rows)
    for side in ("baseline", "candidate"):
        yield f"## {side.capitalize()}"
        yield "\n".join(f"    {key}: {value}" for key, value in leaves(result[side]))
