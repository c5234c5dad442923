"""`flagdeploy serve` and `flagdeploy plan`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flagdeploy.cli import options
from flagdeploy.cli.output import out
from flagdeploy.errors import UsageError

if TYPE_CHECKING:
    from flagdeploy.config.flagscale.imported import Imported

FromFlagscale = Annotated[
    Path | None,
    typer.Option(
        "--from-flagscale",
        metavar="PATH",
        help="Instead of NAME: conf/serve.yaml of FlagScale, the folder it lies in, or a model's "
        "name below examples/.",
    ),
]
Port = Annotated[
    int | None, typer.Option("--port", metavar="N", help="As endpoint.port=N.", min=1, max=65535)
]
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
    from_flagscale: FromFlagscale = None,
    port: Port = None,
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
      flagdeploy serve --from-flagscale examples/deepseek_r1 container.image=IMAGE --dry-run
                                                               FlagScale's YAML as it is
      flagdeploy serve deepseek_r1 tenstorrent_galaxy --until weight_cache
                                                               only convert the weights
    """
    out.json, out.quiet = json, quiet
    name, variant, settings, imported = _deployment(name, overrides, hosts, from_flagscale, port)
    if dry_run:
        _print_plan(name, variant, settings, hosts, launcher, until, workspace, imported)
        return
    for note in imported.notes if imported else ():
        out.note(f"note: {note}")
    if until:
        _prepare(name, variant, settings, hosts, launcher, until, workspace, imported)
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
            imported=imported,
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
    from_flagscale: FromFlagscale = None,
    port: Port = None,
    workspace: options.Workspace = None,
    json: options.Json = False,
) -> None:
    """Print what `serve` would do on every host: the same as `serve --dry-run`.

    \b
      flagdeploy plan deepseek_r1 tensorrt_llm_2x8_h100
      flagdeploy plan deepseek_r1 --hosts hosts.txt --json
    """
    out.json = json
    name, variant, settings, imported = _deployment(name, overrides, hosts, from_flagscale, port)
    _print_plan(name, variant, settings, hosts, launcher, until, workspace, imported)


def _deployment(
    name: str | None,
    overrides: list[str] | None,
    hosts: str | None,
    from_flagscale: Path | None,
    port: int | None,
) -> tuple[str | None, str | None, list[str], "Imported | None"]:
    """NAME, VARIANT, overrides, and what was read of FlagScale's instead of the former two."""
    given = [f"endpoint.port={port}"] if port is not None else []
    if from_flagscale is None:
        variant, settings = options.split_overrides(overrides)
        return name, variant, [*settings, *given], None
    from flagdeploy.config.flagscale.importing import read

    settings = [*([name] if name is not None else []), *(overrides or []), *given]
    if wrong := next((word for word in settings if "=" not in word), None):
        what = f"`{wrong}`: --from-flagscale says what is served, only KEY=VALUE goes with it"
        raise UsageError(what)
    keys = [setting.partition("=")[0].rstrip("+") for setting in settings]
    return None, None, settings, read(from_flagscale, hosts=hosts, overridden=keys)


def _prepare(
    name: str | None,
    variant: str | None,
    settings: list[str],
    hosts: str | None,
    launcher: str | None,
    until: str,
    workspace: str | None,
    imported: "Imported | None",
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
            imported=imported,
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
    imported: "Imported | None",
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
        imported=imported,
    )
    out.result(str(planned), planned.to_dict())
