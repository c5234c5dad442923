"""`flagdeploy logs`."""

from typing import Annotated

import typer

from flagdeploy.cli import options
from flagdeploy.cli.output import out


def logs(
    name: options.Name = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as lines come, until the last rank ends.")
    ] = False,
    rank: Annotated[int | None, typer.Option(min=0, help="Only this rank.")] = None,
    tail: Annotated[
        int | None, typer.Option("--tail", "-n", min=0, help="Only the last N lines of each rank.")
    ] = None,
    hosts: options.Hosts = None,
    workspace: options.Workspace = None,
    json: Annotated[bool, typer.Option("--json", help="Print each line as a JSON object.")] = False,
) -> None:
    """Print the logs of all ranks, each line with its rank and host.

    After a failed start the ranks are gone; then the logs that were kept are printed.

    \b
      flagdeploy logs deepseek_r1 -f                  all ranks, as lines come
      flagdeploy logs deepseek_r1 --rank 1 -n 100     the last 100 lines of one rank
    """
    from flagdeploy.workflows.logs import logs as workflow

    out.json = json
    for line in workflow(
        name, follow=follow, rank=rank, tail=tail, hosts=hosts, workspace=workspace
    ):
        out.line(str(line), vars(line))


def follow_until_interrupted(name: str, workspace: str | None) -> None:
    """`serve --foreground`: show the logs, and stop the deployment on Ctrl-C or when it ends.

    Exits with code 1 when ranks ended by themselves; 0 when somebody stopped them.
    """
    from flagdeploy.workflows.status import status
    from flagdeploy.workflows.stop import stop

    try:
        logs(name, follow=True, workspace=workspace, json=out.json)
        found = status(name, workspace=workspace)
    finally:
        stop(name, workspace=workspace)
    if not found.healthy:
        out.note(found.text())
        raise typer.Exit(1)
