"""One comparison as text, Markdown, HTML, JUnit XML, JSON or the table of a model card.

`result` is always what `CompareResult.to_json()` gives (format ``flagdeploy-compare/1``), so a
stored result.json prints the same report years later.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path

from flagdeploy.errors import UsageError
from flagdeploy.records.report.legible import legible
from flagdeploy.records.report.wording import Result

RESULT_FILE = "result.json"  # its name in the folder of a run
FORMS = ("text", "markdown", "html", "junit", "json", "card")
SUFFIXES = {
    ".html": "html",
    ".htm": "html",
    ".md": "markdown",
    ".xml": "junit",
    ".json": "json",
    ".txt": "text",
}


def render(result: Result, form: str) -> str:
    """The report in one of FORMS, without a last line break.

    Whatever a model or a server wrote becomes legible text first; only JSON holds it as it is.
    """
    check_form(form)
    stored = json.dumps(result, indent=2, ensure_ascii=False, default=str)
    if form == "json":
        return stored
    # One module of this package per form: a terminal needs no templates, a page no XML.
    write: Callable[[Result], str] = import_module(f"{__name__}.{form}").report
    # As `sha256sum result.json` prints it, so that a page can be traced to its result.
    digest = hashlib.sha256(f"{stored}\n".encode(errors="replace")).hexdigest()
    return write({**legible(result), "sha256": digest})


def check_form(form: str) -> None:
    if form not in FORMS:
        raise UsageError(f"unknown format `{form}`", hint=f"there are: {', '.join(FORMS)}")


def form_of(path: Path) -> str:
    """The form that the suffix of `path` stands for; raise UsageError for another suffix."""
    form = SUFFIXES.get(path.suffix.lower())
    if form is None:
        raise UsageError(
            f"--report {path}: the suffix says the form",
            hint=f"one of {', '.join(SUFFIXES)}",
        )
    return form


def write_reports(result: Result, paths: Iterable[Path]) -> None:
    """Write the report to every path, each in the form of its suffix."""
    for path in paths:
        path.write_text(render(result, form_of(path)) + "\n", "utf-8")
