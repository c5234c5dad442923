"""`flagdeploy config show` and `flagdeploy config explain`."""

from pathlib import Path
from typing import Annotated

import typer

from flagdeploy.cli import complete, options
from flagdeploy.cli.output import out
from flagdeploy.errors import UsageError

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _config() -> None:
    """Show a resolved configuration and where each value comes from; read and write FlagScale's."""


@app.command()
def show(
    name: options.Name = None,
    overrides: options.Overrides = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also the keys that keep their default.")
    ] = False,
    workspace: options.Workspace = None,
    json: options.Json = False,
) -> None:
    """Print the resolved YAML, each value with the file and line that set it.

    \b
      flagdeploy config show deepseek_r1                      the default variant
      flagdeploy config show deepseek_r1 sglang_mtp_h200 limits.max_num_seqs=32
      flagdeploy config show tiny_deepseek_r1 --all           every key there is
    """
    from flagdeploy.workflows.config import show as workflow

    out.json = json
    variant, settings = options.split_overrides(overrides)
    shown = workflow(name, variant, settings, workspace=workspace, everything=everything)
    out.result(shown.text(), shown.to_dict())


@app.command()
def explain(
    key: Annotated[
        str,
        typer.Argument(
            metavar="KEY", help="Dotted key, e.g. parallel.tensor.", autocompletion=complete.keys
        ),
    ],
    name: options.Name = None,
    overrides: options.Overrides = None,
    workspace: options.Workspace = None,
    json: options.Json = False,
) -> None:
    """Say what a key means, which layer set it, and what that overrode.

    \b
      flagdeploy config explain parallel.tensor deepseek_r1 vllm_fp8_h200
    """
    from flagdeploy.workflows.config import explain as workflow

    out.json = json
    variant, settings = options.split_overrides(overrides)
    explained = workflow(key, name, variant, settings, workspace=workspace)
    out.result(explained.text(), explained.to_dict())


@app.command("import")
def import_(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="FILE_OR_DIR",
            help="conf/serve.yaml of FlagScale, the folder it lies in, or a model's name below "
            "examples/.",
        ),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE ...]", help="What FlagScale does not say."),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="DIR", help="Write DIR/config.yaml. Default: print it."),
    ] = None,
    hosts: options.Hosts = None,
    workspace: options.Workspace = None,
    json: options.Json = False,
) -> None:
    """Turn a serve configuration of FlagScale into one of ours.

    Everything in it is carried over, or named in a note with the reason, or refused.

    \b
      flagdeploy config import FlagScale/examples/deepseek_r1
      flagdeploy config import conf/serve.yaml vendor=cambricon --to examples/my_model
    """
    from flagdeploy.workflows.config import import_ as workflow

    out.json = json
    imported = workflow(path, settings or (), to=to, hosts=hosts, workspace=workspace)
    for note in imported.notes:
        out.note(f"note: {note}")
    for problem in imported.problems:
        out.warning(f"not ready to serve: {problem}")
    out.result(imported.text(), imported.to_dict())


@app.command()
def export(
    name: options.Name = None,
    overrides: options.Overrides = None,
    form: Annotated[
        str, typer.Option("--format", metavar="F", help="flagscale is the only one.")
    ] = "flagscale",
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="DIR", help="Write DIR/conf/. Default: print the files."),
    ] = None,
    workspace: options.Workspace = None,
    json: options.Json = False,
) -> None:
    """Write a deployment as FlagScale's pair of YAML files and hostfile.

    \b
      flagdeploy config export deepseek_r1 vllm_fp8_h200 --format flagscale --to out
    """
    from flagdeploy.workflows.config import export as workflow

    out.json = json
    if form != "flagscale":
        raise UsageError(f"--format {form}: unknown", "known: flagscale")
    variant, settings = options.split_overrides(overrides)
    exported = workflow(name, variant, settings, to=to, workspace=workspace)
    for note in exported.notes:
        out.note(f"note: {note}")
    out.result(exported.text(), exported.to_dict())
