"""dequant: verify the source > plan > convert shard by shard > index, config, files > check."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from flagdeploy.checkpoint import ownership
from flagdeploy.checkpoint.act_scales import read_act_scales
from flagdeploy.checkpoint.convert import convert
from flagdeploy.checkpoint.copying import copy_file
from flagdeploy.checkpoint.disk import free_space, require_space
from flagdeploy.checkpoint.folder import explained, inside, list_files, read_json, write_json
from flagdeploy.checkpoint.index import write_index
from flagdeploy.checkpoint.jobs import finished
from flagdeploy.checkpoint.native import kernel
from flagdeploy.checkpoint.sample import compare_samples
from flagdeploy.checkpoint.sample_quantized import compare_quantized
from flagdeploy.checkpoint.verify import verify
from flagdeploy.errors import CheckpointError, UsageError
from flagdeploy.plans.conversion import TARGETS, W4afp8Options, plan_conversion
from flagdeploy.plans.conversion_plan import ConversionPlan
from flagdeploy.plans.w4afp8 import LAYOUTS
from flagdeploy.records.events import Event, Report, silent
from flagdeploy.records.sizes import readable

Outcome = Literal["planned", "converted", "already done"]


@dataclass(frozen=True)
class DequantResult:
    """What happened: `shards_written` of them were converted now, the others were there.

    `nonfinite` counts NaN and infinities in the output by tensor: those of the source, and for
    fp16 what is beyond 65504. `kernel` (native or numpy) is what computed the shards written.
    `error` is what quantization cost, by class of tensor: the relative RMS difference of the
    sampled weights to what they were, 0.08 meaning 8 %.
    """

    folder: Path
    outcome: Outcome
    plan: ConversionPlan
    shards_written: int
    nonfinite: Mapping[str, int]
    kernel: str | None = None
    error: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.outcome == "planned":
            free = readable(free_space(self.folder))
            return f"{self.plan}\n  to {self.folder}, where {free} are free"
        what = (
            f"{len(self.plan.jobs)} shard(s), {readable(self.plan.output_bytes)} of {self.plan.to}"
        )
        if self.outcome == "already done":
            return f"{self.folder}: {what}: already done, no change"
        done = f"{self.folder}: {what}: {self.shards_written} shard(s) written, verified"
        if self.error:
            errors = ", ".join(f"{kind} {value:.2%}" for kind, value in self.error.items())
            done += f"\n  relative error (RMS, sampled): {errors}"
        return done

    def to_dict(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "outcome": self.outcome,
            "shards_written": self.shards_written,
            "kernel": self.kernel,
            "nonfinite": dict(self.nonfinite),
            "error": dict(self.error),
            "plan": self.plan.to_dict(),
        }


def dequant(
    checkpoint: str | Path,
    to: str = "bf16",
    out: str | Path | None = None,
    *,
    drop_mtp: bool = False,
    layout: str | None = None,
    act_scales: str | Path | float | None = None,
    parts: int | None = None,
    dry_run: bool = False,
    workers: int | None = None,
    report: Report = silent,
) -> DequantResult:
    """Write the checkpoint folder converted `to` bf16, fp16, fp32 (from FP8 blocks, MXFP4 or
    W4AFP8), fp8 (from BF16) or w4afp8 (from FP8 blocks or BF16).

    The output is `out`, by default beside the source with ``-bf16`` (and so on) appended; tensors
    that need no conversion are copied byte for byte. `drop_mtp` leaves the multi-token prediction
    layers out. For w4afp8: `layout` is trtllm (TensorRT-LLM and SGLang; the default) or vllm;
    `act_scales`, which trtllm needs, is a file of calibrated scales or one number for all experts;
    `parts` is the number of shards of trtllm (9).

    It may be interrupted at any moment: the same call goes on, and finished shards are not written
    again. ``flagdeploy.json`` appears last: then the folder is complete.

    Raises UsageError for unknown values, CheckpointError for a source that is damaged or cannot be
    converted so, an `out` that holds something else, a full disk.
    """
    if to not in TARGETS:
        raise UsageError(f"--to {to}: unknown format", f"known are {', '.join(TARGETS)}")
    options = _options(to, layout, act_scales, parts)
    source = Path(checkpoint)
    named = source if source.name not in ("", "..") else source.resolve()
    target = Path(out) if out else named.with_name(f"{named.name}-{to}")
    plan = _plan(source, target, to, options, drop_mtp)
    found = ownership.look(target, plan.identity)
    if found.state in ("other", "foreign"):
        raise _refusal(target, found)
    if found.state == "complete" and verify(target).ok:
        nonfinite, error = found.mark.get("nonfinite", {}), found.mark.get("error", {})
        return DequantResult(target, "already done", plan, 0, nonfinite, error=error)
    if dry_run:
        return DequantResult(target, "planned", plan, 0, {})
    used = kernel()
    todo = [shard for shard in plan.jobs.names if not _finished(plan, shard, target)]
    require_space(target, sum(map(plan.jobs.needs, todo)))
    with ownership.own(target, plan.identity):
        nonfinite = _convert(plan, todo, target, workers or _default_workers(), report)
        _write_rest(plan, target)
        error = _check(plan, target)
        record = {
            "source": str(source.resolve()),
            "source_format": plan.source_format.name,
            "format": to,
            "total_size": plan.data_bytes,
            "nonfinite": nonfinite,
            "error": error,
            "kernel": used,
            "origin": _origin(source),
            "files": {name: (target / name).stat().st_size for name in list_files(target)},
        }
        ownership.complete(target, plan.identity, record)
    for name, count in nonfinite.items():
        report(Event("convert", f"{name}: {count} values are NaN or infinite"))
    return DequantResult(target, "converted", plan, len(todo), nonfinite, used, error)


def _options(
    to: str, layout: str | None, act_scales: str | Path | float | None, parts: int | None
) -> W4afp8Options:
    given = {"--layout": layout, "--act-scales": act_scales, "--parts": parts}
    for option, value in given.items():
        trtllm = option == "--layout" or layout in (None, "trtllm")
        if value is not None and (to != "w4afp8" or not trtllm):
            what = "the vllm layout" if to == "w4afp8" else f"--to {to}"
            raise UsageError(f"{option}: has no meaning for {what}", f"leave {option} out")
    if layout not in (None, *LAYOUTS):
        raise UsageError(f"--layout {layout}: unknown", f"known are {', '.join(LAYOUTS)}")
    if parts is not None and parts < 1:
        raise UsageError(f"--parts {parts}: there must be one at least")
    if to == "w4afp8" and layout != "vllm" and act_scales is None:
        raise UsageError(
            "--to w4afp8: needs the activation scales of the experts",
            "give a calibrated file (--act-scales act_scales.safetensors), or one number for all "
            "experts, such as --act-scales 1.0, which costs accuracy",
        )
    return W4afp8Options(layout or "trtllm", _act_scales(act_scales), parts or 9)


def _act_scales(given: str | Path | float | None) -> Mapping[str, float] | float:
    try:
        number = float(str(1.0 if given is None else given))
    except ValueError:
        return read_act_scales(Path(str(given)))
    if not 0 < number < math.inf:
        raise UsageError(f"--act-scales {given}: is not a scale", "give a positive number")
    return number


def _plan(
    source: Path, target: Path, to: str, options: W4afp8Options, drop_mtp: bool
) -> ConversionPlan:
    whole = verify(source).require()
    if target.resolve() == source.resolve():
        raise UsageError(f"--out {target} is the checkpoint itself", "give another folder")
    files = {name: (source / name).stat().st_mtime_ns for name in list_files(source)}
    # An output inside the source must not become its own side files.
    if target.resolve().is_relative_to(source.resolve()):
        nested = target.resolve().relative_to(source.resolve()).as_posix() + "/"
        files = {name: ns for name, ns in files.items() if not name.startswith(nested)}
    return plan_conversion(whole, files, to, options, drop_mtp=drop_mtp)


def _refusal(target: Path, found: ownership.Found) -> CheckpointError:
    what = "is not empty and was not made by flagdeploy"
    if found.state == "other":
        what = "holds a conversion of another source, of this source as it was, or to other numbers"
    return CheckpointError(f"{target}: {what}", "remove it or give another folder with --out")


def _default_workers() -> int:
    return min(16, len(os.sched_getaffinity(0)))


def _finished(plan: ConversionPlan, shard: str, target: Path) -> bool:
    # The job is not made for a file that is not there: of a new folder, all.
    return (target / shard).is_file() and finished(plan.jobs.of(shard), target)


def _convert(
    plan: ConversionPlan, todo: list[str], target: Path, workers: int, report: Report
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


def _write_rest(plan: ConversionPlan, target: Path) -> None:
    with explained(f"cannot write {target}"):
        for name in plan.side_files:
            copy_file(inside(plan.source, name), target / name)
        write_index(target, plan.weight_map, plan.data_bytes)
        for name, content in plan.written.items():
            write_json(target / name, content)
        write_json(target / "config.json", plan.config)


def _origin(source: Path) -> Any:
    """What the source's own record says it is (repository and commit), when it has one."""
    path = source / ownership.RECORD
    return read_json(path).get("identity") if path.is_file() else None


def _check(plan: ConversionPlan, target: Path) -> dict[str, float]:
    """Read the output back: headers of all shards, and samples computed another way; the error."""
    verify(target).require()
    wrong: str | None = None
    error: dict[str, float] = {}
    if plan.verb == "quantized":
        wrong, error = compare_quantized(plan.jobs, plan.source, target)
    wrong = wrong or compare_samples(plan.weight_map, plan.jobs.of, plan.source, target)
    if wrong:
        raise CheckpointError(
            f"{target}: {wrong} differs from the source when computed again",
            "memory or the disk of this machine may be at fault; remove the folder and try again",
        )
    return error
