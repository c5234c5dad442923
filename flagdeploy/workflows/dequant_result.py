"""What a conversion did, in a sentence and as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from flagdeploy.checkpoint.disk import free_space
from flagdeploy.config.rank import Rank
from flagdeploy.plans.conversion_plan import ConversionPlan
from flagdeploy.plans.in_place import Space
from flagdeploy.records.sizes import readable

Outcome = Literal["planned", "converted", "already done", "share done"]


@dataclass(frozen=True)
class DequantResult:
    """What happened: `shards_written` of them were converted now, the others were there.

    `nonfinite` counts NaN and infinities in the output by tensor: those of the source, and for
    fp16 what is beyond 65504. `kernel` (native or numpy) is what computed the shards written.
    `error` is what quantization cost, by class of tensor: the relative RMS difference of the
    sampled weights to what they were, 0.08 meaning 8 %. For one of several ranks, `share` are its
    shards and `missing` those that nobody has finished yet: the outcome is ``converted`` when this
    rank completed the folder, else ``share done``. `estimate` is a planned one's time, in words.
    """

    folder: Path
    outcome: Outcome
    plan: ConversionPlan
    shards_written: int
    nonfinite: Mapping[str, int]
    kernel: str | None = None
    error: Mapping[str, float] = field(default_factory=dict)
    rank: Rank | None = None
    share: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    estimate: str = ""

    def __str__(self) -> str:
        if self.outcome == "planned":
            return self._planned()
        what = (
            f"{len(self.plan.jobs)} shard(s), {readable(self.plan.output_bytes)} of {self.plan.to}"
        )
        if self.outcome == "already done":
            return f"{self.folder}: {what}: already done, no change"
        if self.outcome == "share done":
            return f"{self.folder}: {self.rank}: {self._share_done()}"
        who = f"{self.rank} wrote {self.shards_written}, all are there" if self.rank else ""
        done = (
            f"{self.folder}: {what}: {who or f'{self.shards_written} shard(s) written'}, verified"
        )
        if self.error:
            errors = ", ".join(f"{kind} {value:.2%}" for kind, value in self.error.items())
            done += f"\n  relative error (RMS, sampled): {errors}"
        return done

    def _planned(self) -> str:
        lines = [
            str(self.plan),
            f"  to {self.folder}, where {readable(free_space(self.folder))} are free",
        ]
        if self.rank:
            sizes = [self.plan.jobs.sizes[shard] for shard in self.share]
            read, written = (sum(size[i] for size in sizes) for i in (0, 1))
            amounts = f"{readable(read)} read, {readable(written)} written"
            lines.append(f"  {self.rank}: {len(self.share)} of the shards: {amounts}")
        return "\n".join([*lines, *([f"  {self.estimate}"] if self.estimate else [])])

    def _share_done(self) -> str:
        done = f"{self.shards_written} of its {len(self.share)} shard(s) written now, all are there"
        if self.missing:
            missing = f"{len(self.missing)} of {len(self.plan.jobs)} shard(s) are missing"
            return f"{done}; {missing} of other ranks, the last of which completes the folder"
        return f"{done}; another rank completes the folder"

    def to_dict(self) -> dict[str, Any]:
        data = {
            "folder": str(self.folder),
            "outcome": self.outcome,
            "shards_written": self.shards_written,
            "kernel": self.kernel,
            "nonfinite": dict(self.nonfinite),
            "error": dict(self.error),
            "plan": self.plan.to_dict(),
        }
        if self.estimate:
            data["estimate"] = self.estimate
        if self.rank:
            data |= {"rank": self.rank.number, "world_size": self.rank.of}
            data |= {"share": list(self.share), "missing": list(self.missing)}
        return data


@dataclass(frozen=True)
class InPlaceResult:
    """What happened to the checkpoint `folder`; `plan` and `space` are None when all was done."""

    folder: Path
    outcome: Outcome
    to: str
    shards_written: int = 0
    plan: ConversionPlan | None = None
    space: Space | None = None
    estimate: str = ""

    def __str__(self) -> str:
        if self.plan is None:
            return f"{self.folder}: is {self.to} already, converted in place: no change"
        if self.space and self.outcome == "planned":
            free = readable(free_space(self.folder))
            return (
                f"{self.plan}\n  in place: at most {readable(self.space.peak)} more than now while "
                f"it runs, {_change(self.space.end)} at the end; {free} are free\n"
                "  each shard of the source is deleted when what is made of it has been read back "
                f"and compared\n  {self.estimate}"
            )
        amount = f"{len(self.plan.jobs)} shard(s), {readable(self.plan.output_bytes)} of {self.to}"
        return f"{self.folder}: {amount}: {self.shards_written} written in place, verified"

    def to_dict(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "outcome": self.outcome,
            "in_place": True,
            "to": self.to,
            "shards_written": self.shards_written,
            "plan": self.plan.to_dict() if self.plan else None,
            "space": vars(self.space) if self.space else None,
            "estimate": self.estimate,
        }


def _change(size: int) -> str:
    return f"{readable(abs(size))} {'more' if size >= 0 else 'less'}"
