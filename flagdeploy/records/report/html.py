"""The report as one self-contained HTML page: no script, no request, nothing but text and SVG.

Every value goes through the template's autoescape, and the page's own policy forbids whatever
should ever get past it.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from flagdeploy.records.report import plots, wording
from flagdeploy.records.report.legible import excerpts
from flagdeploy.records.report.methods import used
from flagdeploy.records.report.tiers import tiers
from flagdeploy.records.report.wording import Result, Test

NAMES = ("name", "title", "source", "created")  # of a side: they differ, and that says nothing
MINUS = "\u2212"


def report(result: Result) -> str:
    tests = result["tests"]
    accuracy = [test for test in tests if wording.is_accuracy(result, test)]
    others = [test for test in tests if not wording.is_accuracy(result, test)]
    figures = result.get("figures") or {}
    rows = _facts(result)
    page = _page().render(
        result=result,
        reasons=wording.reasons(result),
        accuracy=plots.accuracy_forest(accuracy),
        agreement=plots.agreement_forest(others),
        survival=plots.survival(figures["survival"]) if figures.get("survival") else None,
        scatter=plots.scatter(figures["scatter"]) if figures.get("scatter") else None,
        lengths=plots.histogram(figures["lengths"]) if figures.get("lengths") else None,
        figures=figures,
        flips=[_flip(flip) for flip in result["flips"]],
        tiers=tiers(result),
        differing=[row for row in rows if row["differs"]],
        facts=rows,
        methods=list(used(result)),
    )
    return page.strip()


@cache
def _page() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(wording=wording)
    environment.filters.update(
        begin=begin, edges=edges, figure=figure, margin=margin, minus=minus, signed=signed
    )
    environment.filters.update(p=wording.p_value)
    return environment.get_template("report.html.j2")


def figure(value: float | None, unit: str = "") -> str:
    """A number with a true minus sign; ``pp`` are points to a reader."""
    unit = {"pp": "points"}.get(unit, unit)
    return minus(f"{wording.number(value)} {unit}".rstrip())


def margin(value: float, unit: str) -> str:
    """A margin is chosen, not measured: as many digits as it has, three at most."""
    return figure(value, unit) if value >= 1 else f"{value:.3g}{figure(0.0, unit)[4:]}"


def minus(text: str) -> str:
    """Hyphens before digits as minus signs."""
    return re.sub(r"(?<![\w.])-(?=\d)", MINUS, text)


def begin(text: str) -> str:
    """With a capital, as a sentence begins."""
    return text[:1].upper() + text[1:]


def signed(value: float | None, unit: str = "") -> str:
    sign = "+" if value and value > 0 else ""
    return sign + figure(value, unit)


def edges(test: Test) -> str:
    """The interval without its level, signed as the estimate of a difference is."""
    interval = test["interval"]
    if not interval:
        return ""
    show = signed if wording.is_signed(test) else figure
    low, high = (show(interval[key]) for key in ("low", "high"))
    return f"{low} to {high}"


def _flip(flip: dict[str, Any]) -> dict[str, Any]:
    sides = ("baseline", "candidate")
    texts = excerpts(flip["baseline"]["content"], flip["candidate"]["content"])
    return {**flip, "texts": dict(zip(sides, texts, strict=True))}


def _facts(result: Result) -> list[dict[str, Any]]:
    """Both locks side by side: every fact of either; `differs` where both state it otherwise."""
    mine, theirs = (dict(wording.leaves(result[side])) for side in ("baseline", "candidate"))
    keys = [*mine, *(key for key in theirs if key not in mine)]
    return [
        {
            "key": key,
            "baseline": mine.get(key, ""),
            "candidate": theirs.get(key, ""),
            "differs": key not in NAMES
            and key in mine
            and key in theirs
            and mine[key] != theirs[key],
        }
        for key in keys
    ]
