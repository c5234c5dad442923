"""`flagdeploy baseline record` and `flagdeploy baseline show`."""

from pathlib import Path
from typing import Annotated

import typer

from flagdeploy.cli import complete, options
from flagdeploy.cli.output import out
from flagdeploy.errors import UsageError

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _baseline() -> None:
    """Record a deployment as a baseline for later comparisons, and show recorded ones."""


@app.command()
def record(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME|URL]",
            help="Running deployment or endpoint to record.",
            autocompletion=complete.deployments,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Default: env/baselines/NAME/AS.jsonl.gz."),
    ] = None,
    alias: Annotated[
        str, typer.Option("--as", help="What `compare --baseline` will call it.")
    ] = "local",
    concurrency: Annotated[
        str, typer.Option(help="Requests in flight; each further number repeats everything.")
    ] = "16,64",
    suite: Annotated[
        str | None,
        typer.Option(
            metavar="quick|standard|full",
            help="Ask as much as that suite of `compare` does. Default: every question.",
            autocompletion=complete.suites,
        ),
    ] = None,
    sequences: Annotated[
        int | None,
        typer.Option(min=0, help="Teacher-forced sequences. Default: 64, above quick 256."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Questions of each benchmark.")] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            metavar="S|D|P",
            help="Score sequences in this mode only. Default: S if it can, and D.",
            autocompletion=complete.modes,
        ),
    ] = None,
    benchmarks: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder with benchmark.yaml. Default: the deployment's."),
    ] = None,
    dataset: options.DataSets = None,
    data: options.Data = None,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Checkpoint whose hashes go in.")
    ] = None,
    fact: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="For the reader, e.g. device='NVIDIA H200'."),
    ] = None,
    record_dir: Annotated[
        Path | None,
        typer.Option("--record", metavar="DIR", help="Where answers are kept, to go on later."),
    ] = None,
    workspace: options.Workspace = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Ask an endpoint every question and freeze what it says in one file.

    \b
      flagdeploy baseline record tiny_deepseek_r1 --as h200
      flagdeploy baseline record --suite standard --concurrency 16,64,128
      flagdeploy baseline record http://host:8000 --benchmarks DIR --out here.jsonl.gz
      flagdeploy baseline record deepseek_r1 --dataset gsm8k,math500 --as h100
    """
    from flagdeploy.workflows import baseline as workflow
    from flagdeploy.workflows.baseline_summary import summary

    out.quiet, out.json = quiet, json
    options.check_folder("--record", record_dir)
    with out.progress() as report:
        path, bundle = workflow.record_named(
            source,
            alias,
            out=output,
            benchmarks=benchmarks,
            datasets=options.split(dataset),
            data=data,
            concurrency=_widths(concurrency),
            suite=suite,
            sequences=sequences,
            limit=limit,
            mode=mode,
            checkpoint=checkpoint,
            facts=_pairs(fact or []),
            record_dir=record_dir,
            workspace=workspace,
            report=report,
        )
    out.result(summary(bundle) + f"\nwritten to {path}", dict(bundle.manifest))


def _widths(text: str) -> list[int]:
    widths = text.split(",")
    if not all(width.isdecimal() and int(width) for width in widths):
        raise UsageError(f"--concurrency {text}: write numbers with commas between, such as 16,64")
    return [int(width) for width in widths]


def _pairs(facts: list[str]) -> dict[str, str]:
    for fact in facts:
        if "=" not in fact:
            raise UsageError(f"--fact {fact}: write KEY=VALUE")
    return dict(fact.split("=", 1) for fact in facts)


@app.command()
def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="As for `compare --baseline`.",
            autocompletion=complete.baselines,
        ),
    ],
    workspace: options.Workspace = None,
    json: options.Json = False,
) -> None:
    """Print what a baseline holds: endpoint, what it makes of parameters, digests of configuration
    and checkpoint, scores, sequences with their modes, and noise floor.

    \b
      flagdeploy baseline show h100                     a published table
      flagdeploy baseline show tiny_deepseek_r1/h200    a recording
    """
    from flagdeploy.config import workspace as workspaces
    from flagdeploy.workflows.baseline_summary import described, summary
    from flagdeploy.workflows.sides import find

    out.json = json
    found = find(name, workspaces.find(workspace))
    out.result(summary(found), described(found))
