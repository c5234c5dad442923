"""`flagdeploy dequant`."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from flagdeploy.cli import options
from flagdeploy.cli.output import out
from flagdeploy.errors import UsageError


def dequant(
    name: options.Name = None,
    ckpt: options.Checkpoint = None,
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
            metavar="FILE|DIR|NUMBER",
            help="Of w4afp8 for trtllm: scales from calibrate or published, a folder of "
            "Model-Optimizer's amax_dict_rank*-mp*.pt, or one number for all experts.",
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
    on: Annotated[
        str | None,
        typer.Option(
            "--on",
            metavar="hosts|ray",
            help="One rank on each host of --hosts, or on each node of a Ray cluster. They share "
            "the file system.",
        ),
    ] = None,
    hosts: options.Hosts = None,
    python: Annotated[
        str | None,
        typer.Option(
            "--python",
            metavar="PATH",
            help="Of --on hosts: the hosts' Python that has flagdeploy. Default: as here.",
        ),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            "--ray-address",
            metavar="A",
            help="Of --on ray. Default: $RAY_ADDRESS, or a cluster on this machine.",
        ),
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
    workers: options.Workers = None,
    workspace: options.Workspace = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Convert a checkpoint: to BF16, FP16 or FP32 from FP8 blocks (DeepSeek V3, R1, V3.1, V3.2),
    MXFP4 (gpt-oss) or W4AFP8 (both layouts); BF16 to FP8 blocks; FP8 blocks or BF16 to W4AFP8.

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
      flagdeploy dequant --ckpt /shared/DeepSeek-R1 --on hosts --hosts hosts.txt
      flagdeploy dequant --ckpt /data/DeepSeek-R1 --in-place --dry-run       the room it takes
    """
    from flagdeploy.workflows.conversion import Conversion

    out.json, out.quiet = json, quiet
    _check(on, in_place, out_folder, rank, world_size, hosts, python, ray_address)
    checkpoint = ckpt or options.checkpoint_of(name, workspace)
    conversion = Conversion(to, drop_mtp, layout, act_scales, parts)
    common: dict[str, Any] = {"workers": workers, "dry_run": dry_run}
    with out.progress() as report:
        common["report"] = report
        done: Any
        if in_place:
            from flagdeploy.workflows.in_place import dequant_in_place

            done = dequant_in_place(checkpoint, conversion, **common)
        elif on == "hosts":
            from flagdeploy.config import hostfile
            from flagdeploy.workflows.dequant_on_hosts import dequant_on_hosts

            common |= {"out": out_folder, "python": python, "known_hosts": _known_hosts(workspace)}
            inventory = hostfile.read(Path(str(hosts)))
            done = dequant_on_hosts(checkpoint, conversion, inventory, **common)
        elif on == "ray":
            from flagdeploy.workflows.dequant_on_ray import dequant_on_ray

            common |= {"out": out_folder, "address": ray_address, "world_size": world_size}
            done = dequant_on_ray(checkpoint, conversion, **common)
        else:
            from flagdeploy.workflows.dequant import dequant as workflow

            common |= {"out": out_folder, "rank": _rank(rank), "world_size": world_size}
            done = workflow(checkpoint, **vars(conversion), **common)
    out.result(str(done), done.to_dict())


def _check(
    on: str | None,
    in_place: bool,
    out_folder: str | None,
    rank: str | None,
    world_size: int | None,
    hosts: str | None,
    python: str | None,
    ray_address: str | None,
) -> None:
    """Options that do not go together."""
    from flagdeploy.config.rank import refuse_many

    if on not in (None, "hosts", "ray"):
        raise UsageError(f"--on {on}: unknown", "--on hosts --hosts FILE, or --on ray")
    if in_place and (out_folder or rank or world_size or on):
        raise UsageError("--in-place: goes with none of --out, --rank, --world-size and --on")
    if on and (rank or (world_size and on == "hosts")):
        raise UsageError(f"--on {on}: makes the ranks itself", "leave --rank and --world-size out")
    if (on == "hosts") != bool(hosts):
        raise UsageError("--on hosts and --hosts FILE go together")
    for option, value, owner in (
        ("--python", python, "hosts"),
        ("--ray-address", ray_address, "ray"),
    ):
        if value and on != owner:
            raise UsageError(f"{option}: is for --on {owner}")
    if rank is None and world_size is None and not on:
        refuse_many(os.environ)


def _known_hosts(workspace: str | None) -> Path:
    from flagdeploy.config.workspace import find
    from flagdeploy.workflows.places import known_hosts_file

    return known_hosts_file(find(workspace))


def _rank(given: str | None) -> int | Literal["auto"] | None:
    if given == "auto":
        return "auto"
    if given is not None and not given.isdecimal():
        raise UsageError(f"--rank {given}: is neither a number nor auto")
    return None if given is None else int(given)
