"""The report for a terminal."""

from flagdeploy.records.report.wording import (
    COLUMNS,
    Result,
    counted,
    explained,
    headline,
    mode,
    open_tests,
    row,
    scored,
)


def report(result: Result) -> str:
    """Verdict first, then a line per test and a sentence for each that did not pass."""
    how = " ".join([f"mode: {mode(result)}.", *scored(result)]).removesuffix(".")
    lines = [headline(result), how, ""]
    rows = [COLUMNS, *(row(test) for test in result["tests"])]
    widths = [max(len(cells[column]) for cells in rows) for column in range(len(COLUMNS))]
    for cells in rows:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        lines.append("  ".join(padded).rstrip())
    lines += ["", *(f"{test['name']}: {explained(test)}" for test in open_tests(result))]
    lines += [f"{side}: {counted(counts)}" for side, counts in result["answers"].items()]
    return "\n".join(lines).rstrip()
