"""`flagdeploy ops`: what operator libraries do to a model."""

from pathlib import Path
from typing import Annotated

import typer

from flagdeploy.cli import options
from flagdeploy.cli.output import out
from flagdeploy.errors import UsageError

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
        str | None, typer.Option("--only", metavar="OP,OP", help="Look at these operators alone.")
    ] = None,
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
    from flagdeploy.config.workspace import find
    from flagdeploy.workflows import resolve
    from flagdeploy.workflows.ops import bisect as workflow

    out.json, out.quiet = json, quiet
    with out.progress() as report:
        done = workflow(
            ckpt or resolve.served_checkpoint_of(name, find(workspace)),
            out_folder,
            baseline=baseline,
            only=None if only is None else only.replace(",", " ").split(),
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


@app.command()
def coverage(
    name: options.Name = None,
    *,
    requests: Annotated[
        int, typer.Option("--requests", min=1, metavar="N", help="Asked at once in the profile.")
    ] = 8,
    warm_up: Annotated[
        int | None,
        typer.Option("--warm-up", min=0, metavar="N", help="Asked before. Default: as many."),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, metavar="N", help="Longest reply.")
    ] = 64,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts", metavar="FILE", help="One a line, or JSONL. Default: its benchmark's."
        ),
    ] = None,
    trace: Annotated[
        list[Path] | None,
        typer.Option("--trace", metavar="FILE|DIR", help="Ask nothing, read these traces."),
    ] = None,
    triton_cache: Annotated[
        list[Path] | None,
        typer.Option("--triton-cache", metavar="DIR", help="Cache of the process of --trace."),
    ] = None,
    library_source: Annotated[
        list[Path] | None,
        typer.Option("--library-source", metavar="DIR", help="FlagGems' package, or its cache."),
    ] = None,
    engine_source: Annotated[
        list[Path] | None,
        typer.Option("--engine-source", metavar="DIR", help="The engine's package."),
    ] = None,
    evidence: Annotated[
        Path | None,
        typer.Option("--evidence", metavar="FILE", help="evidence.json of an earlier profile."),
    ] = None,
    top: Annotated[
        int, typer.Option("--top", min=0, metavar="N", help="Kernels listed of each source.")
    ] = 5,
    timeout: Annotated[
        float, typer.Option("--timeout", min=1, help="Seconds to wait for the traces.")
    ] = 1800.0,
    workspace: options.Workspace = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure how much of a model's work is done by Triton kernels, and by whose.

    Profiles the running deployment with real requests, after a warm-up, and attributes every kernel
    to one source: the library (FlagGems), the engine's own Triton kernels, the compiler
    (TorchInductor) or the vendor (everything else). The file that Triton compiled a kernel from
    decides, else the kernels that the packages declare.

    \b
      operators  distinct operators that launched kernels, each counted for the source of most of
                 its kernel time; a launch outside of any operator is called as its kernel
      launches   kernels that ran; copies and fills of memory are no kernels
      time       their durations added up over all streams, devices and ranks
      share      the part of the same measure over all four sources

    The deployment has to be served with profiler.folder=DIR, a folder beside each rank where traces
    stay. Here they are kept with the evidence and the result under runs/coverage-*/.

    Exit code 1 when no device kernels ran, or none of a library that the deployment asks for.

    \b
      flagdeploy serve deepseek_r1 vllm_fp8_h200 profiler.folder=/tmp/flagdeploy-profiles
      flagdeploy ops coverage deepseek_r1 --requests 16 --max-tokens 128
      flagdeploy ops coverage --trace runs/X/traces --evidence runs/X/evidence.json
      flagdeploy ops coverage --trace a.json.gz --triton-cache DIR --library-source DIR/flag_gems
    """
    from flagdeploy.operators.coverage_text import text
    from flagdeploy.workflows.ops_coverage import Asking, of_deployment, of_traces

    out.json, out.quiet = json, quiet
    made = (triton_cache, library_source, engine_source, evidence)
    if trace:
        if name or prompts:
            raise UsageError("--trace asks nothing: drop the deployment and --prompts")
        found = of_traces(
            trace,
            triton_caches=triton_cache or (),
            library_sources=library_source or (),
            engine_sources=engine_source or (),
            evidence_file=evidence,
        )
    elif any(made):
        raise UsageError("a running deployment is scanned beside its ranks", "give --trace too")
    else:
        asking = Asking(requests, warm_up, max_tokens, prompts)
        with out.progress() as report:
            found = of_deployment(
                name, asking, timeout_s=timeout, workspace=workspace, report=report
            )
    out.result(text(found, top), found.to_dict())
    if found.empty or found.inactive:
        raise typer.Exit(1)
