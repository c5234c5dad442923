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

    \b
      flagdeploy status                            everything on the known hosts
      flagdeploy status deepseek_r1 --json         one deployment, for scripts
      flagdeploy status --hosts hosts.txt          also what was served from elsewhere
    """
    from flagdeploy.workflows.status import status as workflow

    out.json = json
    found = workflow(name, hosts=hosts, workspace=workspace)
    out.result(found.text(), found.to_dict())
    if not found.healthy:
        raise typer.Exit(1)
