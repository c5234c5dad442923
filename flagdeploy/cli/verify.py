"""`flagdeploy verify`."""

from typing import Annotated

import typer

from flagdeploy.cli import options
from flagdeploy.cli.output import out


def verify(
    name: options.Name = None,
    ckpt: options.Checkpoint = None,
    hashes: Annotated[
        bool,
        typer.Option(
            "--hashes",
            help="Read all data: every file against the hash recorded by pull or huggingface_hub.",
        ),
    ] = False,
    nan: Annotated[
        bool, typer.Option("--nan", help="Read all data: name tensors with NaN or infinities.")
    ] = False,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="SOURCE",
            help="Folder that this one was converted or copied from: compute tensors again.",
        ),
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(
            "--sample",
            min=1,
            metavar="N",
            help="Tensors to compute again, pieces of some of every class. Default: 64.",
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Compute all tensors again, as long as it takes.")
    ] = False,
    workers: options.Workers = None,
    workspace: options.Workspace = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Say what is wrong with a checkpoint, a line for each fault: exit code 0 when it is whole.

    Without options only headers, index and sizes are read, which takes less than a second however
    large the checkpoint is: missing, torn, swapped and foreign shards, scales that do not fit.
    Reading 700 GB takes as long as the disk needs, so it is asked for; --hashes and --nan together
    read it once.

    --against SOURCE recognises the conversion (BF16, FP16, FP32, FP8, W4AFP8; by flagdeploy or any
    other tool) or copy, computes tensors again in double precision and prints the error against the
    exact values for each class of tensors. Bits that are not as defined are faults.

    \b
      flagdeploy verify                                        the workspace's deployment
      flagdeploy verify --ckpt /data/DeepSeek-R1
      flagdeploy verify --ckpt /data/DeepSeek-R1 --hashes --nan
      flagdeploy verify --ckpt /data/R1-bf16 --against /data/DeepSeek-R1
      flagdeploy verify --ckpt /data/R1-bf16 --against /data/DeepSeek-R1 --all --json
    """
    from flagdeploy.workflows.verify import SAMPLE
    from flagdeploy.workflows.verify import verify as workflow

    out.json, out.quiet = json, quiet
    _check(against, sample, everything)
    checkpoint = ckpt or options.checkpoint_of(name, workspace)
    with out.progress() as report:
        found = workflow(
            checkpoint,
            against,
            hashes=hashes,
            nan=nan,
            sample=None if everything else sample or SAMPLE,
            workers=workers,
            report=report,
        )
    for note in found.notes:
        out.note(f"note: {note}")
    out.result(str(found), found.to_dict())
    if not found.ok:
        raise typer.Exit(1)


def _check(against: str | None, sample: int | None, everything: bool) -> None:
    from flagdeploy.errors import UsageError

    if sample is not None and everything:
        raise UsageError("--sample and --all: give one of them")
    if not against and (sample is not None or everything):
        option = "--all" if everything else "--sample"
        hint = "add --against SOURCE; --hashes and --nan always read everything"
        raise UsageError(f"{option}: has no meaning without --against", hint)
