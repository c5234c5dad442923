"""`flagdeploy hosts check` and `flagdeploy hosts trust`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from flagdeploy.cli import options
from flagdeploy.cli.output import out
from flagdeploy.errors import UsageError

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Inventory = Annotated[str, typer.Option("--hosts", metavar="FILE", help="Inventory of hosts.")]


@app.callback()
def _hosts() -> None:
    """Check the hosts of an inventory, and record their keys."""


@app.command()
def check(
    hosts: Inventory,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[-- COMMAND ...]", help="Run this on every host.")
    ] = None,
    workspace: options.Workspace = None,
    json: options.Json = False,
) -> None:
    """Connect to every host and show kernel, Docker engine and ranks; like answers together.

    \b
      flagdeploy hosts check --hosts hosts.txt
      flagdeploy hosts check --hosts hosts.txt -- df -h /models
    """
    from flagdeploy.config.workspace import find
    from flagdeploy.workflows import places
    from flagdeploy.workflows.hosts import check as workflow

    out.json = json
    with places.launchers(None, find(workspace), hosts) as launchers:
        answers = workflow(launchers, command or ())
    out.result(answers.text(), answers.to_dict())
    if not answers.ok:
        raise typer.Exit(1)


@app.command()
def trust(
    hosts: Inventory,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Accept every key shown.")] = False,
    workspace: options.Workspace = None,
    json: options.Json = False,
) -> None:
    """Fetch the host keys, show their fingerprints, and record those you accept.

    Compare each with what `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` prints on the host.

    \b
      flagdeploy hosts trust --hosts hosts.txt
      flagdeploy hosts trust --hosts hosts.txt --yes    after you compared them
    """
    from flagdeploy.config import hostfile
    from flagdeploy.config.workspace import find
    from flagdeploy.workflows.hosts import trust as workflow
    from flagdeploy.workflows.places import known_hosts_file

    out.json = json
    if not yes and not sys.stdin.isatty():
        raise UsageError("there is nobody to ask", "check the fingerprints, then give --yes")

    def confirm(line: str) -> bool:
        return yes or typer.confirm(f"trust {line}?", err=True)

    trusted = workflow(hostfile.read(Path(hosts)), known_hosts_file(find(workspace)), confirm)
    out.result(trusted.text(), trusted.to_dict())
