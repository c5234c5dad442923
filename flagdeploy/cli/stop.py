"""`flagdeploy stop`."""

from typing import Annotated

import typer

from flagdeploy.cli import options
from flagdeploy.cli.output import out
from flagdeploy.errors import UsageError


def stop(
    name: options.Name = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every deployment on the known hosts.")
    ] = False,
    hosts: options.Hosts = None,
    workspace: options.Workspace = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Stop a deployment on all its hosts. Only what carries flagdeploy's label is touched.

    That nothing runs is no error. A host that is down is named (exit code 1), and the others are
    stopped all the same.

    \b
      flagdeploy stop deepseek_r1
      flagdeploy stop --all --hosts hosts.txt    whatever runs on these hosts
    """
    from flagdeploy.workflows.stop import stop as workflow

    out.json, out.quiet = json, quiet
    if everything == bool(name):
        raise UsageError("name one deployment, or give --all")
    with out.progress() as report:
        stopped = workflow(name, hosts=hosts, workspace=workspace, report=report)
    out.result(stopped.text(), stopped.to_dict())
