"""`flagdeploy status`."""

import typer

from flagdeploy.cli import options
from flagdeploy.cli.output import out


def status(
    name: options.Name = None,
    hosts: options.Hosts = None,
    workspace: options.Workspace = None,
    json: options.Json = False,
) -> None:
    """Show what runs where, and whether it answers with a token.

    Exit code 1 when a rank is dead, a host does not answer or an endpoint is not ready.
    """
    from flagdeploy.workflows.status import status as workflow

    out.json = json
    found = workflow(name, hosts=hosts, workspace=workspace)
    out.result(found.text(), found.to_dict())
    if not found.healthy:
        raise typer.Exit(1)
