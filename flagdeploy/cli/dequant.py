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
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help="bf16, fp16 or fp32.")] = "bf16",
    out_folder: Annotated[
        str | None,
        typer.Option("--out", metavar="DIR", help="Output folder. Default: DIR-FORMAT beside it."),
    ] = None,
    drop_mtp: Annotated[
        bool, typer.Option("--drop-mtp", help="Leave the multi-token prediction layers out.")
    ] = False,
    dry_run: options.DryRun = False,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Threads. Default: one per core, 16.")
    ] = None,
    workspace: options.Workspace = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Convert an FP8 block checkpoint (DeepSeek V3, R1, V3.1, V3.2) to BF16, FP16 or FP32.

    Exact to the last bit, shard by shard in constant memory. Interrupt it at any moment: the same
    command goes on, and finished shards are not written again.

    \b
      flagdeploy dequant --to bf16                             the workspace's deployment
      flagdeploy dequant --ckpt /data/DeepSeek-R1 --dry-run    sizes and disk, nothing written
      flagdeploy dequant --ckpt /data/DeepSeek-R1 --out /scratch/R1-bf16 --drop-mtp
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
            dry_run=dry_run,
            workers=workers,
            report=report,
        )
    out.result(str(done), done.to_dict())


def _checkpoint_of(name: str | None, workspace: str | None) -> str:
    from flagdeploy.config.workspace import find
    from flagdeploy.workflows import resolve

    return str(resolve.checkpoint_of(name, find(workspace)))
