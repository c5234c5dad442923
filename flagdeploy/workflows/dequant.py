"""dequant: verify the source > plan > convert shard by shard > index, config, files > check."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flagdeploy.checkpoint import ownership
from flagdeploy.checkpoint.convert import convert
from flagdeploy.checkpoint.copying import copy_file
from flagdeploy.checkpoint.disk import free_space, require_space
from flagdeploy.checkpoint.folder import explained, inside, list_files, read_json, write_json
from flagdeploy.checkpoint.fp8 import TARGETS
from flagdeploy.checkpoint.index import write_index
from flagdeploy.checkpoint.jobs import finished
from flagdeploy.checkpoint.native import kernel
from flagdeploy.checkpoint.sample import compare_samples
from flagdeploy.checkpoint.verify import verify
from flagdeploy.errors import CheckpointError, UsageError
from flagdeploy.plans.dequant import DequantPlan, plan_dequant
from flagdeploy.records.events import Event, Report, silent
from flagdeploy.records.sizes import readable

Outcome = Literal["planned", "converted", "already done"]


@dataclass(frozen=True)
class DequantResult:
    """What happened: `shards_written` of them were converted now, the others were there.

    `nonfinite` counts NaN and infinities in the output by tensor: those of the source, and for
    fp16 what is beyond 65504. `kernel` (native or numpy) is what computed the shards written.
    """

    folder: Path
    outcome: Outcome
    plan: DequantPlan
    shards_written: int
    nonfinite: Mapping[str, int]
    kernel: str | None = None

    def __str__(self) -> str:
        if self.outcome == "planned":
            free = readable(free_space(self.folder))
            return f"{self.plan}\n  to {self.folder}, where {free} are free"
        what = (
            f"{len(self.plan.jobs)} shard(s), {readable(self.plan.output_bytes)} of {self.plan.to}"
        )
        if self.outcome == "already done":
            return f"{self.folder}: {what}: already done, no change"
        return f"{self.folder}: {what}: {self.shards_written} shard(s) written, verified"

    def to_dict(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "outcome": self.outcome,
            "shards_written": self.shards_written,
            "kernel": self.kernel,
            "nonfinite": dict(self.nonfinite),
            "plan": self.plan.to_dict(),
        }


def dequant(
    checkpoint: str | Path,
    to: str = "bf16",
    out: str | Path | None = None,
    *,
    drop_mtp: bool = False,
    dry_run: bool = False,
    workers: int | None = None,
    report: Report = silent,
) -> DequantResult:
    """Write the checkpoint folder with its FP8 tensors dequantized `to` bf16, fp16 or fp32.

    The output (`out`, by default beside the source with ``-bf16`` appended) has the source's shard
    names; tensors that are not FP8 are copied byte for byte. `drop_mtp` leaves the multi-token
    prediction layers out. It may be interrupted at any moment: the same call goes on, and finished
    shards are not written again. ``flagdeploy.json`` appears last: then the folder is complete.

    Raises UsageError for an unknown `to`, CheckpointError for a source that is damaged or of
    another format, an `out` that holds something else, a full disk.
    """
    if to not in TARGETS:
        raise UsageError(f"--to {to}: not yet supported", f"supported are {', '.join(TARGETS)}")
    source = Path(checkpoint)
    named = source if source.name not in ("", "..") else source.resolve()
    target = Path(out) if out else named.with_name(f"{named.name}-{to}")
    plan = _plan(source, target, to, drop_mtp)
    found = ownership.look(target, plan.identity)
    if found.state in ("other", "foreign"):
        raise _refusal(target, found)
    if found.state == "complete" and verify(target).ok:
        nonfinite = found.mark.get("nonfinite", {})
        return DequantResult(target, "already done", plan, 0, nonfinite)
    if dry_run:
        return DequantResult(target, "planned", plan, 0, {})
    used = kernel()
    todo = [shard for shard in plan.jobs.names if not _finished(plan, shard, target)]
    require_space(target, sum(map(plan.jobs.needs, todo)))
    with ownership.own(target, plan.identity):
        nonfinite = _convert(plan, todo, target, workers or _default_workers(), report)
        _write_rest(plan, target)
        _check(plan, target)
        record = {
            "source": str(source.resolve()),
            "source_format": plan.source_format.name,
            "format": to,
            "total_size": plan.data_bytes,
            "nonfinite": nonfinite,
            "kernel": used,
            "origin": _origin(source),
            "files": {name: (target / name).stat().st_size for name in list_files(target)},
        }
        ownership.complete(target, plan.identity, record)
    for name, count in nonfinite.items():
        report(Event("convert", f"{name}: {count} values are NaN or infinite"))
    return DequantResult(target, "converted", plan, len(todo), nonfinite, used)


def _plan(source: Path, target: Path, to: str, drop_mtp: bool) -> DequantPlan:
    whole = verify(source).require()
    if target.resolve() == source.resolve():
        raise UsageError(f"--out {target} is the checkpoint itself", "give another folder")
    files = {name: (source / name).stat().st_mtime_ns for name in list_files(source)}
    # An output inside the source must not become its own side files.
    if target.resolve().is_relative_to(source.resolve()):
        nested = target.resolve().relative_to(source.resolve()).as_posix() + "/"
        files = {name: ns for name, ns in files.items() if not name.startswith(nested)}
    return plan_dequant(whole, files, to, drop_mtp=drop_mtp)


def _refusal(target: Path, found: ownership.Found) -> CheckpointError:
    what = "is not empty and was not made by flagdeploy"
    if found.state == "other":
        what = "holds a conversion of another source, of this source as it was, or to other numbers"
    return CheckpointError(f"{target}: {what}", "remove it or give another folder with --out")


def _default_workers() -> int:
    return min(16, len(os.sched_getaffinity(0)))


def _finished(plan: DequantPlan, shard: str, target: Path) -> bool:
    # The job is not made for a file that is not there: of a new folder, all.
    return (target / shard).is_file() and finished(plan.jobs.of(shard), target)


def _convert(
    plan: DequantPlan, todo: list[str], target: Path, workers: int, report: Report
) -> dict[str, int]:
    """Convert the shards that are not finished; returns the non-finite counts of all shards."""
    mark = ownership.look(target, plan.identity).mark
    nonfinite: dict[str, int] = dict(mark.get("nonfinite", {}))
    total = plan.source_bytes
    before = total - sum(plan.jobs.sizes[shard][0] for shard in todo)

    def progress(done: int) -> None:
        report(Event("convert", f"to {plan.to}", done=before + done, total=total, unit="B"))

    def remember(shard: str, counts: dict[str, int]) -> None:
        nonfinite.update(counts)
        ownership.note(target, plan.identity, {"nonfinite": nonfinite})

    convert(map(plan.jobs.of, todo), plan.source, target, workers, progress, remember)
    return dict(sorted(nonfinite.items()))


def _write_rest(plan: DequantPlan, target: Path) -> None:
    with explained(f"cannot write {target}"):
        for name in plan.side_files:
            copy_file(inside(plan.source, name), target / name)
        write_index(target, plan.weight_map, plan.data_bytes)
        write_json(target / "config.json", plan.config)


def _origin(source: Path) -> Any:
    """What the source's own record says it is (repository and commit), when it has one."""
    path = source / ownership.RECORD
    return read_json(path).get("identity") if path.is_file() else None


def _check(plan: DequantPlan, target: Path) -> None:
    """Read the output back: headers of all shards, and sampled blocks computed another way."""
    verify(target).require()
    if wrong := compare_samples(plan.weight_map, plan.jobs.of, plan.source, target):
        raise CheckpointError(
            f"{target}: {wrong} differs from the source when computed again",
            "memory or the disk of this machine may be at fault; remove the folder and try again",
        )
