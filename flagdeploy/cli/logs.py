"""`flagdeploy logs`."""

from typing import Annotated

import typer

from flagdeploy.cli import options


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
) -> None:
    """Print the logs of all ranks, each line with its rank and host.

    After a failed start the ranks are gone; then the logs that were kept are printed.
    """
    from flagdeploy.workflows.logs import logs as workflow

    for line in workflow(
        name, follow=follow, rank=rank, tail=tail, hosts=hosts, workspace=workspace
    ):
        print(line, flush=True)


def follow_until_interrupted(name: str, workspace: str | None) -> None:
    """`serve --foreground`: show the logs, and stop the deployment on Ctrl-C or when it ends."""
    from flagdeploy.workflows.stop import stop

    try:
        logs(name, follow=True, workspace=workspace)
    finally:
        stop(name, workspace=workspace)
