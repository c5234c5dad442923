"""`flagdeploy dequant`."""

from typing import Annotated

import typer

from flagdeploy.cli import options
from flagdeploy.cli.output import out


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

    \b
      flagdeploy dequant --to bf16                             the workspace's deployment
      flagdeploy dequant --ckpt /data/DeepSeek-R1 --dry-run    sizes and disk, nothing written
      flagdeploy dequant --ckpt /data/DeepSeek-R1 --out /scratch/R1-bf16 --drop-mtp
      flagdeploy dequant --ckpt /data/DeepSeek-R1 --to w4afp8 --act-scales act_scales.safetensors
    """
    from flagdeploy.workflows.dequant import dequant as workflow

    out.json, out.quiet = json, quiet
    checkpoint = ckpt or _checkpoint_of(name, workspace)
    with out.progress() as report:
        done = workflow(
            checkpoint,
            to,
            out_folder,
            drop_mtp=drop_mtp,
            layout=layout,
            act_scales=act_scales,
            parts=parts,
            dry_run=dry_run,
            workers=workers,
            report=report,
        )
    out.result(str(done), done.to_dict())


def _checkpoint_of(name: str | None, workspace: str | None) -> str:
    from flagdeploy.config.workspace import find
    from flagdeploy.workflows import resolve

    return str(resolve.checkpoint_of(name, find(workspace)))
