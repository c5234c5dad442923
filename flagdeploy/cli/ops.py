"""`flagdeploy ops`: what operator libraries do to a model."""

from typing import Annotated

import typer

from flagdeploy.cli import options
from flagdeploy.cli.output import out

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Operator libraries under the microscope."
)


@app.command()
def bisect(
    name: options.Name = None,
    *,
    ckpt: options.Checkpoint = None,
    out_folder: Annotated[
        str, typer.Option("--out", metavar="DIR", help="Trials, evidence and operators.yaml.")
    ] = "ops-bisect",
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline", metavar="BUNDLE", help="Probe with its sequences, not random ones."
        ),
    ] = None,
    only: Annotated[
        str, typer.Option("--only", metavar="OP,OP", help="Look at these operators alone.")
    ] = "",
    device: Annotated[
        str, typer.Option("--device", help="Any torch device: cuda, cuda:1, mlu, ...")
    ] = "cuda",
    dtype: Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16.")] = (
        "bfloat16"
    ),
    jobs: Annotated[
        int, typer.Option("--jobs", min=1, metavar="N", help="Trials at once on the device.")
    ] = 1,
    max_kl: Annotated[
        float | None,
        typer.Option("--max-kl", help="Nats per token; default: 10 noise floors, 0.001 at least."),
    ] = None,
    max_slowdown: Annotated[
        float, typer.Option("--max-slowdown", help="Times the native time; 0: any.")
    ] = 0.0,
    silent: Annotated[
        float, typer.Option("--silent", help="Seconds without progress that are a hang.")
    ] = 300.0,
    timeout: Annotated[
        float, typer.Option("--timeout", help="Seconds for one trial at most.")
    ] = 900.0,
    workspace: options.Workspace = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Find the operators of FlagGems that crash a model, corrupt its output or slow it down.

    Every trial is a process that switches a set of operators on in the pytorch engine and compares
    its logits with native ones over the same tokens. Groups are split while they fail; what fails
    only together is found by delta debugging. A trial that still compiles when its time is up goes
    on with the kernels it has; one without progress hangs. Run it again to resume.

    Exit code 1 when even what is left does not pass as engines run it.

    \b
      flagdeploy ops bisect --ckpt /data/tiny-deepseek --jobs 8
      flagdeploy ops bisect deepseek_r1 --baseline h100.jsonl.gz --max-slowdown 3
      flagdeploy ops bisect --ckpt /data/tiny-deepseek --only softmax,topk,bmm
    """
    from flagdeploy.workflows.ops import bisect as workflow

    out.json, out.quiet = json, quiet
    with out.progress() as report:
        done = workflow(
            ckpt or options.checkpoint_of(name, workspace),
            out_folder,
            baseline=baseline,
            only=[word for word in only.split(",") if word],
            device=device,
            dtype=dtype,
            jobs=jobs,
            max_kl=max_kl,
            max_slowdown=max_slowdown,
            silent_s=silent,
            timeout_s=timeout,
            report=report,
        )
    out.result(str(done), done.to_dict())
    if not done.final.passed:
        raise typer.Exit(1)
