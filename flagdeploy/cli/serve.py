"""`flagdeploy serve` and `flagdeploy plan`."""

from typing import Annotated

import typer

from flagdeploy.cli import options
from flagdeploy.cli.output import out

Until = Annotated[
    str | None,
    typer.Option(
        "--until",
        metavar="STAGE",
        help="Only the vendor's converters up to this one: checkpoint or weight_cache.",
    ),
]


def serve(
    name: options.Name = None,
    overrides: options.Overrides = None,
    hosts: options.Hosts = None,
    launcher: options.Launcher = None,
    dry_run: options.DryRun = False,
    until: Until = None,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay, show the logs, stop all on Ctrl-C.")
    ] = False,
    workspace: options.Workspace = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Start a deployment on its hosts and wait until it generates a token.

    What runs already with the same settings is left alone; anything else is replaced as a whole.

    \b
      flagdeploy serve deepseek_r1                             the default variant
      flagdeploy serve deepseek_r1 sglang_mtp_h200 --dry-run   the plan, touching nothing
      flagdeploy serve deepseek_r1 limits.max_num_seqs=64 endpoint.port=9000
      flagdeploy serve tiny_deepseek_r1 --launcher local       here, without Docker
      flagdeploy serve deepseek_r1 tenstorrent_galaxy --until weight_cache
                                                               only convert the weights
    """
    out.json, out.quiet = json, quiet
    variant, settings = options.split_overrides(overrides)
    if dry_run:
        _print_plan(name, variant, settings, hosts, launcher, until, workspace)
        return
    if until:
        _prepare(name, variant, settings, hosts, launcher, until, workspace)
        return
    from flagdeploy.workflows.serve import serve as workflow

    with out.progress() as report:
        served = workflow(
            name,
            variant,
            settings,
            hosts=hosts,
            launcher=launcher,
            workspace=workspace,
            report=report,
        )
    out.result(served.text(), served.to_dict())
    if foreground:
        from flagdeploy.cli.logs import follow_until_interrupted

        follow_until_interrupted(served.name, workspace)


def plan(
    name: options.Name = None,
    overrides: options.Overrides = None,
    hosts: options.Hosts = None,
    launcher: options.Launcher = None,
    until: Until = None,
    workspace: options.Workspace = None,
    json: options.Json = False,
) -> None:
    """Print what `serve` would do on every host: the same as `serve --dry-run`.

    \b
      flagdeploy plan deepseek_r1 tensorrt_llm_2x8_h100
      flagdeploy plan deepseek_r1 --hosts hosts.txt --json
    """
    out.json = json
    variant, settings = options.split_overrides(overrides)
    _print_plan(name, variant, settings, hosts, launcher, until, workspace)


def _prepare(
    name: str | None,
    variant: str | None,
    settings: list[str],
    hosts: str | None,
    launcher: str | None,
    until: str,
    workspace: str | None,
) -> None:
    from flagdeploy.workflows.serve import prepare

    with out.progress() as report:
        prepared = prepare(
            name,
            variant,
            settings,
            until=until,
            hosts=hosts,
            launcher=launcher,
            workspace=workspace,
            report=report,
        )
    out.result(prepared.text(), prepared.to_dict())


def _print_plan(
    name: str | None,
    variant: str | None,
    settings: list[str],
    hosts: str | None,
    launcher: str | None,
    until: str | None,
    workspace: str | None,
) -> None:
    from flagdeploy.workflows.plan import plan as workflow

    planned = workflow(
        name,
        variant,
        settings,
        hosts=hosts,
        launcher=launcher,
        until=until,
        workspace=workspace,
    )
    out.result(str(planned), planned.to_dict())
