"""One comparison as text for a terminal and as Markdown, from the same result.

`result` is always what `CompareResult.to_json()` gives (format ``flagdeploy-compare/1``), so a
stored result.json prints the same report years later.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]

COLUMNS = ("test", "verdict", "estimate", "interval", "margin", "n")
MODES = {
    "published totals": "published totals, unpaired: lower power, clustering unknown",
    "paired answers only": "paired answers only; numerical agreement was not tested",
}
MEANINGS = {
    "PASS": "the same model as the baseline, within the margins",
    "FAIL": "not the same model as the baseline",
    "DIFFERENT": "another model than the baseline; harm beyond the margins was not shown",
    "INCONCLUSIVE": "not enough evidence for either verdict",
}


def text(result: Result) -> str:
    """Verdict first, then a line per test and a sentence for each that did not pass."""
    lines = [_headline(result), f"mode: {MODES.get(result['mode'], result['mode'])}", ""]
    rows = [COLUMNS, *(_row(test) for test in result["tests"])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
    order = ("FAIL", "DIFFERENT", "INCONCLUSIVE")
    open_tests = sorted(
        (test for test in result["tests"] if test["verdict"] in order),
        key=lambda test: order.index(test["verdict"]),
    )
    lines += ["", *(f"{test['name']}: {explained(test)}" for test in open_tests)]
    lines += [f"{side}: {_counted(counts)}" for side, counts in result["answers"].items()]
    return "\n".join(lines).rstrip()


def markdown(result: Result) -> str:
    """The whole report: tests, what would decide them, answers, flips, and both manifests."""
    parts = [
        f"# {_headline(result)}",
        _about(result),
        "## Tests",
        _table(
            COLUMNS,
            [_row(test) for test in result["tests"]],
        ),
        "\n".join(f"- **{test['name']}**: {explained(test)}" for test in result["tests"]),
        *_answers(result),
        *_flips(result),
        *_sides(result),
    ]
    return "\n\n".join(parts) + "\n"


def explained(test: Mapping[str, Any]) -> str:
    """A test's sentence with its method; how sure an alarm is; what would decide an open one."""
    parts = [f"{test['sentence']}."]
    if method := test.get("test"):
        parts.append(f"Test: {method}.")
    if ratio := test.get("ratio"):
        span = test.get("ratio_interval")
        edges = f" [{number(span['low'])}, {number(span['high'])}]" if span else ""
        parts.append(f"{number(ratio)}{edges} times the baseline's own noise.")
    if test["verdict"] in ("FAIL", "DIFFERENT") and test["p"] is not None:
        parts.append(f"Beyond what is allowed: p = {test['p']:.2g}, adjusted for all tests (Holm).")
    if test["needed_n"]:
        unit = "sequences" if test["name"].startswith("teacher-forced") else "questions"
        repeats = test.get("needed_repeats") or 1
        asked = f", or each asked {repeats} times with sampling," if repeats > 1 else ""
        parts.append(f"About {test['needed_n']} {unit}{asked} would decide it (power 80%).")
    return " ".join(parts)


def _headline(result: Result) -> str:
    verdict = result["verdict"]
    sides = f"{result['candidate']['name']} against {result['baseline']['name']}"
    return f"{verdict}: {sides}: {MEANINGS[verdict]}"


def _about(result: Result) -> str:
    share = result["identical"]
    same = f" {share:.1%} of all replies are identical word for word." if share is not None else ""
    mode = MODES.get(result["mode"], result["mode"])
    return (
        f"Mode: {mode}; suite {result['suite']}; started {result['started']}, took "
        f"{result['seconds']:.0f} s.{same} A test passes when its interval lies within the "
        f"margin, fails when it lies beyond, and is open otherwise; tests marked * are required."
    )


def _row(test: Mapping[str, Any]) -> tuple[str, ...]:
    unit = test["unit"]
    margin = "" if test["margin"] is None else f"{number(test['margin'])} {unit}"
    interval = test["interval"]
    span = (
        f"[{number(interval['low'])}, {number(interval['high'])}] at {test['level']:.0%}"
        if interval
        else ""
    )
    estimate = "" if test["estimate"] is None else f"{number(test['estimate'])} {unit}"
    return (
        test["name"] + (" *" if test["required"] else ""),
        test["verdict"],
        estimate,
        span,
        margin,
        str(test["n"] or ""),
    )


def number(value: float | None) -> str:
    """Two decimals, or as many as show two digits of a small value; None is unbounded."""
    if value is None:
        return "unbounded"
    return f"{value:.2f}" if value == 0 or abs(value) >= 0.1 else f"{value:.2g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(c) for c in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _answers(result: Result) -> Iterator[str]:
    if not result["answers"]:
        return
    yield "## Answers"
    columns = list(next(iter(result["answers"].values())))
    rows = [
        [side, *(str(counts[column]) for column in columns)]
        for side, counts in result["answers"].items()
    ]
    yield _table(["side", *columns], rows)
    yield (
        "`length`: cut by the token limit. `unparsed`: no answer found in the reply. `refused`: "
        "the endpoint declined the request. These count as wrong. `error` and `timeout`: no reply "
        "at all; left out, and a PASS must also hold with each of them counted as wrong."
    )


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count) or "none"


def _flips(result: Result) -> Iterator[str]:
    if not result["flip_count"]:
        return
    yield "## Flips"
    count, shown = result["flip_count"], len(result["flips"])
    yield f"{count} questions are right on one side only; the first {shown}:"
    for flip in result["flips"]:
        lines = [f"### {flip['task']} `{flip['item']}`, the answer is `{flip['gold']}`"]
        for side in ("baseline", "candidate"):
            answer = flip[side]
            mark = "right" if answer["score"] else "wrong"
            lines.append(
                f"{side.capitalize()}: `{answer['prediction']}`, {mark}, {answer['status']}"
            )
            lines.append(_quoted(answer["content"]))
        yield "\n\n".join(lines)


def _quoted(content: str) -> str:
    # Indented as code: whatever a model wrote, it stays text.
    return "\n".join(f"    {line}" for line in content.splitlines()) or "    (empty)"


def _sides(result: Result) -> Iterator[str]:
    if result["differences"]:
        yield "## What differs between the sides"
        rows = [
            [row["key"], str(row["baseline"]), str(row["candidate"])]
            for row in result["differences"]
        ]
        yield _table(("fact", "baseline", "candidate"), rows)
    for side in ("baseline", "candidate"):
        yield f"## {side.capitalize()}"
        yield "\n".join(_yaml_like(result[side]))


def _yaml_like(value: Mapping[str, Any], indent: int = 4) -> Iterator[str]:
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield f"{' ' * indent}{key}:"
            yield from _yaml_like(inner, indent + 2)
        elif isinstance(inner, list) and inner and isinstance(inner[0], Mapping):
            yield f"{' ' * indent}{key}:"
            for row in inner:
                yield f"{' ' * indent}-"
                yield from _yaml_like(row, indent + 2)
        else:
            yield f"{' ' * indent}{key}: {inner}"
