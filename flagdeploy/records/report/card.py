"""The table of a FlagRelease model card, with what its two columns alone cannot say.

Columns 1 to 3 are those of the cards (FlagRelease/DeepSeek-R1-FlagOS-Cambricon-BF16); difference,
interval, margin, questions and verdict are added.
"""

from collections.abc import Iterator

from flagdeploy.records.report.markdown import plain, table
from flagdeploy.records.report.wording import (
    Result,
    Test,
    benchmark,
    decided_by,
    is_accuracy,
    number,
    statement,
)

# What the cards write behind a benchmark's name; without spaces, dashes and case.
METRICS = {
    "gsm8k": "EM",
    "mmlu": "Acc.",
    "aime2024": "Pass@1",
    "aime2025": "Pass@1",
    "gpqadiamond": "Pass@1",
    "math500": "Pass@1",
}


def report(result: Result) -> str:
    tests = [test for test in result["tests"] if is_accuracy(result, test)]
    head = (
        "Metrics",
        _title(result, "baseline"),
        _title(result, "candidate"),
        f"Difference, points{_level(tests)}",
        "May lose",
        "n",
        "Verdict",
    )
    return "\n\n".join(
        [
            "# Evaluation Results",
            table(head, [_row(test) for test in tests]),
            f"{result['verdict']}: {plain(statement(result))} PASS: losing more than allowed is "
            "ruled out; FAIL: it is shown; INCONCLUSIVE: too few questions for either.",
            *_open(tests),
        ]
    )


def _title(result: Result, side: str) -> str:
    return str(result[side].get("title") or result[side]["name"])


def _level(tests: list[Test]) -> str:
    levels = sorted({test["level"] for test in tests if test["level"]})
    return f" ({levels[0]:.0%} interval)" if len(levels) == 1 else ""


def _row(test: Test) -> tuple[str, ...]:
    margin = "" if test["margin"] is None else number(test["margin"])
    return (
        _metric(benchmark(test)),
        _score(test.get("baseline")),
        _score(test.get("candidate")),
        _difference(test),
        margin,
        str(test["n"] or ""),
        test["verdict"],
    )


def _metric(name: str) -> str:
    known = METRICS.get("".join(c for c in name.lower() if c.isalnum()))
    return f"{name} ({known})" if known else name


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _difference(test: Test) -> str:
    if test["estimate"] is None:
        return ""
    interval = test["interval"]
    edges = f" [{interval['low']:+.2f}, {interval['high']:+.2f}]" if interval else ""
    return f"{test['estimate']:+.2f}{edges}"


def _open(tests: list[Test]) -> Iterator[str]:
    rows = [
        f"- {plain(benchmark(test))}: {' '.join(decided_by(test))}"
        for test in tests
        if test["verdict"] == "INCONCLUSIVE" and test["needed_n"]
    ]
    if rows:
        yield "\n".join(rows)
