"""`flagdeploy dequant`."""

import os
from typing import Annotated, Literal

import typer

from flagdeploy.cli import options
from flagdeploy.cli.output import out
from flagdeploy.errors import UsageError


def dequant(
    name: options.Name = None,
    ckpt: Annotated[
        str | None,
        typer.Option(
            "--ckpt", metavar="DIR", help="Checkpoint folder. Default: that of the deployment."
        ),
    ] = None,
    to: Annotated[
        str, typer.Option("--to", metavar="FORMAT", help="bf16, fp16, fp32, fp8 or w4afp8.")
    ] = "bf16",
    out_folder: Annotated[
        str | None,
        typer.Option("--out", metavar="DIR", help="Output folder. Default: DIR-FORMAT beside it."),
    ] = None,
    drop_mtp: Annotated[
        bool, typer.Option("--drop-mtp", help="Leave the multi-token prediction layers out.")
    ] = False,
    layout: Annotated[
        str | None,
        typer.Option(
            "--layout",
            help="Of w4afp8: trtllm (TensorRT-LLM, SGLang; default) or vllm (compressed-tensors).",
        ),
    ] = None,
    act_scales: Annotated[
        str | None,
        typer.Option(
            "--act-scales",
            metavar="FILE|NUMBER",
            help="Of w4afp8 for trtllm: calibrated scales, or one number for all experts.",
        ),
    ] = None,
    parts: Annotated[
        int | None,
        typer.Option("--parts", min=1, help="Shards of w4afp8 for trtllm. Default: 9."),
    ] = None,
    rank: Annotated[
        str | None,
        typer.Option(
            "--rank",
            metavar="R|auto",
            help="Convert the share of rank R, from 0; auto: as srun, mpirun or torchrun say.",
        ),
    ] = None,
    world_size: Annotated[
        int | None, typer.Option("--world-size", metavar="N", min=1, help="How many ranks share.")
    ] = None,
    in_place: Annotated[
        bool,
        typer.Option(
            "--in-place",
            help="Destroy the source: delete each shard once what is made of it was read back and "
            "compared; the output takes its place.",
        ),
    ] = False,
    dry_run: options.DryRun = False,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Threads. Default: one per core, 16.")
    ] = None,
    workspace: options.Workspace = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Convert a checkpoint: to BF16, FP16 or FP32 from FP8 blocks (DeepSeek V3, R1, V3.1, V3.2),
    MXFP4 (gpt-oss) or W4AFP8; BF16 to FP8 blocks; FP8 blocks or BF16 to W4AFP8.

    Defined to the last bit, shard by shard in constant memory. Interrupt it at any moment: the same
    command goes on, and finished shards are not written again.

    Several ranks share the shards where they share the folder: each writes its own, and the last to
    finish completes the checkpoint. Ranks that died are made up for by running any of them again,
    or the command without --rank.

    \b
      flagdeploy dequant --to bf16                             the workspace's deployment
      flagdeploy dequant --ckpt /data/DeepSeek-R1 --dry-run    sizes and disk, nothing written
      flagdeploy dequant --ckpt /data/DeepSeek-R1 --out /scratch/R1-bf16 --drop-mtp
      flagdeploy dequant --ckpt /data/DeepSeek-R1 --to w4afp8 --act-scales act_scales.safetensors
      srun -N 8 flagdeploy dequant --ckpt /data/DeepSeek-R1 --rank auto
      flagdeploy dequant --ckpt /data/DeepSeek-R1 --rank 0 --world-size 8    and so on to 7
    """
    from flagdeploy.config.rank import refuse_many
    from flagdeploy.workflows.conversion import Conversion
    from flagdeploy.workflows.dequant import dequant as workflow
    from flagdeploy.workflows.in_place import dequant_in_place

    out.json, out.quiet = json, quiet
    if rank is None and world_size is None:
        refuse_many(os.environ)
    checkpoint = ckpt or _checkpoint_of(name, workspace)
    if in_place:
        if out_folder or rank or world_size:
            raise UsageError("--in-place: goes with none of --out, --rank and --world-size")
        conversion = Conversion(to, drop_mtp, layout, act_scales, parts)
        with out.progress() as report:
            freed = dequant_in_place(
                checkpoint, conversion, dry_run=dry_run, workers=workers, report=report
            )
        out.result(str(freed), freed.to_dict())
        return
    with out.progress() as report:
        done = workflow(
            checkpoint,
            to,
            out_folder,
            drop_mtp=drop_mtp,
            layout=layout,
            act_scales=act_scales,
            parts=parts,
            rank=_rank(rank),
            world_size=world_size,
            dry_run=dry_run,
            workers=workers,
            report=report,
        )
    out.result(str(done), done.to_dict())


def _rank(given: str | None) -> int | Literal["auto"] | None:
    if given == "auto":
        return "auto"
    if given is not None and not given.isdecimal():
        raise UsageError(f"--rank {given}: is neither a number nor auto")
    return None if given is None else int(given)


def _checkpoint_of(name: str | None, workspace: str | None) -> str:
    from flagdeploy.config.workspace import find
    from flagdeploy.workflows import resolve

    return str(resolve.checkpoint_of(name, find(workspace)))
