"""`flagdeploy report`."""

from pathlib import Path
from typing import Annotated

import typer

from flagdeploy.cli import options
from flagdeploy.cli.output import out


def report(
    result: Annotated[
        Path,
        typer.Argument(
            metavar="RESULT.json|FOLDER", help="A stored result, or the folder of a comparison."
        ),
    ],
    form: options.Form = "text",
    report_files: options.ReportFiles = None,
    as_json: options.Json = False,
) -> None:
    """Print a stored result of `compare` again, in any form.

    Asks no endpoint and judges nothing anew: the verdict is the one that was stored.

    \b
      flagdeploy report runs/compare-20260101T000000Z-1          as the terminal showed it
      flagdeploy report result.json --report report.html         the page
      flagdeploy report result.json --format card                the table of a model card
    """
    from flagdeploy.records.report import render, write_reports
    from flagdeploy.records.report.stored import read_result

    out.json = as_json or form == "json"
    options.check_report(form, report_files)
    data = read_result(result)
    write_reports(data, report_files or [])
    out.result(render(data, form), data)
