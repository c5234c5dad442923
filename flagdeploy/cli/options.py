"""Options that several commands share, with one wording each."""

import os
from pathlib import Path
from typing import Annotated

import typer

from flagdeploy.cli import complete
from flagdeploy.errors import UsageError

Name = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME",
        help="Deployment: a folder under examples/ of the workspace.",
        autocompletion=complete.deployments,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[VARIANT] [KEY=VALUE ...]",
        help="A file under serve/, then keys to override, e.g. parallel.tensor=4.",
        autocompletion=complete.overrides,
    ),
]
Workspace = Annotated[
    str | None,
    typer.Option(
        "--workspace",
        metavar="DIR",
        help="Folder with examples/ and env/. Default: $FLAGDEPLOY_HOME, else the nearest parent "
        "that has both, else the copy that came with flagdeploy.",
    ),
]
Hosts = Annotated[
    str | None,
    typer.Option("--hosts", metavar="FILE", help="Inventory: lines `HOST slots=N [user= port=]`."),
]
Launcher = Annotated[
    str | None,
    typer.Option("--launcher", metavar="L", help="ssh (containers) or local (a process here)."),
]
Checkpoint = Annotated[
    str | None,
    typer.Option(
        "--ckpt", metavar="DIR", help="Checkpoint folder. Default: that of the deployment."
    ),
]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="Threads. Default: one per core, 16.")
]
DataSets = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        metavar="NAME[,NAME]",
        help="Public test sets; `pull --dataset list` names them.",
        autocompletion=complete.datasets,
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="PATH",
        help="Where they lie: a file, or a folder. Default: data/NAME of $FLAGDEPLOY_DATA or of "
        "the workspace.",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the plan and touch nothing, connect nowhere.")
]
ReportFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--report",
        metavar="FILE",
        help="Write the report to a file: .html .md .xml (JUnit) .json .txt. May be repeated.",
    ),
]
Form = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="F",
        help="On stdout: text, markdown, html, junit, json, or card (the table of a model card).",
        autocompletion=complete.forms,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")]


def split(names: str | None) -> list[str]:
    """``a,b`` as [a, b]."""
    return [name.strip() for name in (names or "").split(",") if name.strip()]


def split_overrides(arguments: list[str] | None) -> tuple[str | None, list[str]]:
    """`[VARIANT] [key=value ...]` as (variant, overrides)."""
    arguments = list(arguments or [])
    variant = arguments.pop(0) if arguments and "=" not in arguments[0] else None
    return variant, arguments


def check_report(form: str, files: list[Path] | None) -> None:
    """What could only fail after hours of asking fails before: raise UsageError."""
    from flagdeploy.records.report import check_form, form_of

    check_form(form)
    for file in files or []:
        form_of(file)
        check_file("--report", file)


def check_file(option: str, file: Path | None) -> None:
    """Raise UsageError where `file` could not be written. None and `-` (stdout) can."""
    if file is None or str(file) == "-":
        return
    place = file if file.exists() else file.parent
    if file.is_dir() or not place.exists() or not os.access(place, os.W_OK):
        raise UsageError(f"{option} {file}: no file can be written there")


def check_folder(option: str, folder: Path | None) -> None:
    """Make `folder`, or raise UsageError where no file could be written in it."""
    if folder is None:
        return
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{option} {folder}: is no folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{option} {folder}: no folder can be made: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{option} {folder}: no file can be written there")


def checkpoint_of(name: str | None, workspace: str | None) -> str:
    """The checkpoint folder of a deployment, for commands that were not given --ckpt."""
    from flagdeploy.config.workspace import find
    from flagdeploy.workflows import resolve

    return str(resolve.checkpoint_of(name, find(workspace)))
