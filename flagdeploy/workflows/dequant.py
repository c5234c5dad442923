"""dequant: verify the source > plan > convert shard by shard > index, config, files > check."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from flagdeploy.checkpoint import ownership
from flagdeploy.checkpoint.convert import convert
from flagdeploy.checkpoint.disk import require_space
from flagdeploy.checkpoint.folder import list_files
from flagdeploy.checkpoint.jobs import finished
from flagdeploy.checkpoint.native import kernel
from flagdeploy.checkpoint.verify import verify
from flagdeploy.config.rank import Rank, chosen
from flagdeploy.plans.conversion_plan import ConversionPlan
from flagdeploy.plans.ranks import share
from flagdeploy.records.events import Event, Report, silent
from flagdeploy.workflows.conversion import Conversion
from flagdeploy.workflows.dequant_rest import check, origin, write_rest
from flagdeploy.workflows.dequant_result import DequantResult
from flagdeploy.workflows.estimate import estimate


def dequant(
    checkpoint: str | Path,
    to: str = "bf16",
    out: str | Path | None = None,
    *,
    drop_mtp: bool = False,
    layout: str | None = None,
    act_scales: str | Path | float | None = None,
    parts: int | None = None,
    rank: int | Literal["auto"] | None = None,
    world_size: int | None = None,
    dry_run: bool = False,
    workers: int | None = None,
    report: Report = silent,
) -> DequantResult:
    """Write the checkpoint folder converted `to` bf16, fp16, fp32 (from FP8 blocks, MXFP4 or
    W4AFP8), fp8 (from BF16) or w4afp8 (from FP8 blocks or BF16).

    The output is `out`, by default beside the source with ``-bf16`` (and so on) appended; tensors
    that need no conversion are copied byte for byte. `drop_mtp` leaves the multi-token prediction
    layers out. For w4afp8: `layout` is trtllm (TensorRT-LLM and SGLang; the default) or vllm;
    `act_scales`, which trtllm needs, is a file of calibrated scales, a Model-Optimizer folder or
    one number for all experts; `parts` is the number of shards of trtllm (9).

    It may be interrupted at any moment: the same call goes on, and finished shards are not written
    again. ``flagdeploy.json`` appears last: then the folder is complete.

    With `rank` (``auto``: as torchrun, MPI or Slurm say) of `world_size`, only this rank's share of
    the shards is converted. The rank that finds all shards finished completes the folder; when
    ranks died, the same ranks again, any other number of them, or a call without `rank` goes on.

    Raises UsageError for unknown values, CheckpointError for a source that is damaged or cannot be
    converted so, an `out` that holds something else, a full disk.
    """
    conversion = Conversion(to, drop_mtp, layout, act_scales, parts)
    mine = chosen(rank, world_size, os.environ)
    source = Path(checkpoint)
    target = conversion.target(source, out)
    ownership.require_complete(source)
    plan = conversion.plan(source, target)
    found = ownership.look(target, plan.identity)
    ownership.refuse_others(target, found)
    if found.state == "complete" and verify(target).ok:
        return _already_done(plan, target, found.mark)
    names = plan.jobs.names if mine is None else share(plan.jobs.sizes, mine)
    if dry_run:
        time = estimate(plan, names, workers or default_workers())
        return DequantResult(target, "planned", plan, 0, {}, rank=mine, share=names, estimate=time)
    run = _Run(plan, target, names, workers or default_workers(), report)
    if mine:
        return run.share(mine, mend=found.state == "complete")
    return run.whole()


def default_workers() -> int:
    return min(16, len(os.sched_getaffinity(0)))


class _Run:
    """One conversion under way: of `names`, the shards that are this process's to write."""

    def __init__(
        self,
        plan: ConversionPlan,
        target: Path,
        names: tuple[str, ...],
        workers: int,
        report: Report,
    ) -> None:
        self.plan, self.target, self.names = plan, target, names
        self.workers, self.report = workers, report
        self.kernel = kernel()

    def whole(self) -> DequantResult:
        """Convert what is not finished and complete the folder."""
        todo = self._todo()
        require_space(self.target, sum(map(self.plan.jobs.needs, todo)))
        with ownership.own(self.target, self.plan.identity):
            known = ownership.noted(self.target, "nonfinite")

            def remember(shard: str, counts: dict[str, int]) -> None:
                known.update(counts)
                ownership.note(self.target, self.plan.identity, {"nonfinite": known})

            self._convert(todo, remember)
            return self._complete(len(todo))

    def share(self, rank: Rank, *, mend: bool) -> DequantResult:
        """Convert this rank's shards, and complete the folder if no other is missing."""
        unfinished = missing(self.plan, self.target)
        begun = ownership.begun_bytes(self.target)
        require_space(self.target, sum(map(self.plan.jobs.needs, unfinished)) - begun)
        with ownership.own_share(self.target, self.plan.identity, rank, mend=mend) as parts:
            found = ownership.look(self.target, self.plan.identity)
            if found.state == "complete":
                return _already_done(self.plan, self.target, found.mark)
            todo, known = self._todo(), {}

            def remember(shard: str, counts: dict[str, int]) -> None:
                known.update(counts)
                ownership.note_share(parts, {"nonfinite": known})

            self._convert(todo, remember, parts)
            # A new file makes a network file system look at the folder afresh. When the others saw
            # the last shard before, the folder is complete by now and its notes are gone.
            with suppress(FileNotFoundError):
                ownership.note_share(parts, {"nonfinite": known})
            left = missing(self.plan, self.target)
            if not left:
                with ownership.completing(self.target, rank) as ours:
                    if ours:
                        return self._complete(len(todo), rank)
            return DequantResult(
                self.target,
                "share done",
                self.plan,
                len(todo),
                known,
                self.kernel,
                rank=rank,
                share=self.names,
                missing=left,
            )

    def _todo(self) -> list[str]:
        return [shard for shard in self.names if not is_finished(self.plan, shard, self.target)]

    def _convert(self, todo: list[str], remember: Any, parts: Path | None = None) -> None:
        """Convert the shards of `todo`; the share of this process is what progress counts."""
        sizes = self.plan.jobs.sizes
        total = sum(sizes[shard][0] for shard in self.names)
        before = total - sum(sizes[shard][0] for shard in todo)

        def progress(done: int) -> None:
            what = f"to {self.plan.to}"
            self.report(Event("convert", what, done=before + done, total=total, unit="B"))

        jobs = map(self.plan.jobs.of, todo)
        convert(jobs, self.plan.source, self.target, self.workers, progress, remember, parts)

    def _complete(self, written: int, rank: Rank | None = None) -> DequantResult:
        """Write everything besides the shards, read the output back, and record it."""
        plan, target = self.plan, self.target
        nonfinite = ownership.noted(target, "nonfinite")
        write_rest(plan, target)
        error = check(plan, target)
        record = {
            "source": str(plan.source.resolve()),
            "source_format": plan.source_format.name,
            "format": plan.to,
            "total_size": plan.data_bytes,
            "nonfinite": nonfinite,
            "error": error,
            "kernel": self.kernel,
            "origin": origin(plan.source),
            "files": {name: (target / name).stat().st_size for name in list_files(target)},
        }
        ownership.complete(target, plan.identity, record)
        for name, count in nonfinite.items():
            self.report(Event("convert", f"{name}: {count} values are NaN or infinite"))
        return DequantResult(
            target, "converted", plan, written, nonfinite, self.kernel, error, rank, self.names
        )


def is_finished(plan: ConversionPlan, shard: str, target: Path) -> bool:
    # The job is not made for a file that is not there: of a new folder, all.
    return (target / shard).is_file() and finished(plan.jobs.of(shard), target)


def missing(plan: ConversionPlan, target: Path) -> tuple[str, ...]:
    """The output shards that are not finished, whoever has to write them."""
    return tuple(shard for shard in plan.jobs.names if not is_finished(plan, shard, target))


def _already_done(plan: ConversionPlan, target: Path, mark: Mapping[str, Any]) -> DequantResult:
    nonfinite, error = mark.get("nonfinite", {}), mark.get("error", {})
    return DequantResult(target, "already done", plan, 0, nonfinite, error=error)
