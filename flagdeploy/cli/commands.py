"""The commands by name, each imported when it is wanted: no command pays for the others."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import typer

# Each name is a module of this package that holds the command or, for one with commands of its
# own, an `app`; the line is what `flagdeploy --help` says of it.
COMMANDS = {
    "pull": "Download a checkpoint, or a test set, and verify every file.",
    "dequant": "Convert a checkpoint between FP8, BF16, MXFP4 and W4AFP8.",
    "calibrate": "Record the activation scales that W4AFP8 wants.",
    "verify": "Say what is wrong with a checkpoint.",
    "serve": "Start a deployment and wait until it generates a token.",
    "plan": "Print what `serve` would do on every host.",
    "status": "Show what runs where, and whether it answers.",
    "logs": "Print the logs of all ranks.",
    "stop": "Stop a deployment on all its hosts.",
    "compare": "Say whether a deployment is the same model as a baseline.",
    "eval": "Ask an endpoint public test sets and grade its answers.",
    "report": "Print a stored result of `compare` again, in any form.",
    "baseline": "Record a deployment as a baseline for later comparisons.",
    "config": "Show, import and export configurations.",
    "hosts": "Check the hosts of an inventory, and record their keys.",
    "ops": "Find what an operator library breaks, and measure what it covers.",
    "patch": "Apply a vendor's patches to a component's source.",
}
BESIDE = {"plan": "serve"}  # commands that live in the module of another


class Commands(Mapping[str, Any]):
    """The click command of each name, imported and built when it is first asked for."""

    def __init__(self) -> None:
        self._built: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._built:
            self._built[name] = _built(name, COMMANDS[name])
        return self._built[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


def _built(name: str, summary: str) -> Any:
    module = import_module(f"flagdeploy.cli.{BESIDE.get(name, name)}")
    one = typer.Typer(rich_markup_mode=None)
    if inner := getattr(module, "app", None):
        one.add_typer(inner, name=name)
    else:
        # A name that Python has taken for itself ends in an underscore there.
        command = getattr(module, name, None) or getattr(module, f"{name}_")
        one.command(name, short_help=summary)(command)
    return typer.main.get_group(one).commands[name]
