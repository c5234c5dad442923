"""`flagdeploy config show` and `flagdeploy config explain`."""

from typing import Annotated

import typer

from flagdeploy.cli import complete, options
from flagdeploy.cli.output import out

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _config() -> None:
    """Show a resolved configuration, and where each value comes from."""


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
