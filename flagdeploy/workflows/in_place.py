"""dequant --in-place: convert a checkpoint where it is, freeing each shard of the source as soon as
nothing needs it any more.

Everything lies in the checkpoint's own folder, so that the final moves are renames::

    .flagdeploy-unfinished.json    mark: identity of the work, phase, counts
    .flagdeploy-in-place/source    headers, index and config of the source: the plan, again
    .flagdeploy-in-place/out       output shards

Phases: ``converting`` (a source shard is deleted when every output made of it is synced, was read
back and is equal to the last byte; config.json, the index and an old record go first, so that no
engine takes the rest for a checkpoint), ``moving`` (outputs take their places, index and
config.json last, then the record), ``cleaning``. Each step may be repeated, so it goes on from any
moment.
"""

import os
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from flagdeploy.checkpoint import ownership
from flagdeploy.checkpoint.convert import convert
from flagdeploy.checkpoint.disk import require_space
from flagdeploy.checkpoint.folder import (
    PART,
    explained,
    is_weight,
    list_files,
    read_json,
    write_json,
)
from flagdeploy.checkpoint.index import INDEX, write_index
from flagdeploy.checkpoint.jobs import ShardJob
from flagdeploy.checkpoint.likeness import keep_likeness
from flagdeploy.checkpoint.native import kernel
from flagdeploy.checkpoint.readback import compare
from flagdeploy.checkpoint.sample import compare_samples
from flagdeploy.checkpoint.sample_quantized import compare_quantized
from flagdeploy.checkpoint.verify import verify
from flagdeploy.errors import CheckpointError
from flagdeploy.plans.conversion_plan import QUANTIZATION_FILES, ConversionPlan
from flagdeploy.plans.in_place import Space, Stage, space, stages
from flagdeploy.records.events import Event, Report, silent
from flagdeploy.records.files import sync_folder
from flagdeploy.workflows.conversion import Conversion
from flagdeploy.workflows.dequant import default_workers, is_finished
from flagdeploy.workflows.dequant_rest import origin
from flagdeploy.workflows.dequant_result import InPlaceResult
from flagdeploy.workflows.estimate import estimate

TREE = ".flagdeploy-in-place"


def dequant_in_place(
    checkpoint: str | Path,
    conversion: Conversion,
    *,
    dry_run: bool = False,
    workers: int | None = None,
    report: Report = silent,
) -> InPlaceResult:
    """Convert a checkpoint where it is: the folder ends up with the output in place of the source.

    Needs, beyond what is there, about one output shard and what the output is larger. It may be
    interrupted or killed at any moment; until the same call has gone on to its end the folder
    cannot be used, and says so.

    Raises CheckpointError for what `dequant` raises it, and for a folder that is not to be
    destroyed: made of links, of other weights besides its shards, unfinished work of another kind.
    """
    source = Path(checkpoint)
    if not source.is_dir():
        raise CheckpointError(f"{source}: no such folder", "flagdeploy pull fetches a checkpoint")
    with nullcontext() if dry_run else ownership.locked(source):
        if _is_done(source, conversion.to):
            return InPlaceResult(source, "already done", conversion.to)
        work = _InPlace(source, conversion, workers or default_workers(), report)
        return work.planned() if dry_run else work.carry_out()


def _is_done(source: Path, to: str) -> bool:
    path = source / ownership.RECORD
    if not path.is_file() or (source / ownership.UNFINISHED).exists():
        return False
    record = read_json(path)
    return record.get("in_place") is True and record.get("format") == to and verify(source).ok


class _InPlace:
    """One conversion in place under way."""

    def __init__(self, source: Path, conversion: Conversion, workers: int, report: Report) -> None:
        self.source, self.conversion = source, conversion
        self.workers, self.report = workers, report
        self.likeness, self.out = source / TREE / "source", source / TREE / "out"
        self.written = self.compared = 0
        self.command = (
            f"finish it: flagdeploy dequant --ckpt {source} "
            f"{' '.join(conversion.arguments())} --in-place"
        )
        self.mark: dict[str, Any] = self._mark()

    def planned(self) -> InPlaceResult:
        if self.mark.get("phase") == "cleaning":
            return InPlaceResult(self.source, "already done", self.conversion.to)
        self.require_ours()
        moving = self.mark.get("phase") == "moving"
        left = Space(0, 0) if moving else self.space()
        names = [] if moving else [n for n in self.plan.jobs.names if self._is_to_do(n)]
        time = estimate(self.plan, names, self.workers, in_place=True)
        return InPlaceResult(self.source, "planned", self.conversion.to, 0, self.plan, left, time)

    def carry_out(self) -> InPlaceResult:
        if self.mark.get("phase") == "cleaning":
            self._clean()
            return InPlaceResult(self.source, "already done", self.conversion.to)
        self.require_ours()
        if not self.mark:
            self._begin()
        if self.mark["phase"] == "converting":
            self._convert()
        self._move()
        self._clean()
        to = self.conversion.to
        return InPlaceResult(self.source, "converted", to, self.written, self.plan)

    @cached_property
    def plan(self) -> ConversionPlan:
        """Made of the source while it is whole, then of its likeness: the same."""
        base = self.likeness if self.likeness.is_dir() else self.source
        return replace(self.conversion.plan(base), source=self.source)

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        reads = {job.name: job.sources for job in self.plan.jobs}
        return stages(reads, self.shards)

    @cached_property
    def shards(self) -> dict[str, int]:
        """Size of each shard that the source has or had."""
        base = self.likeness if self.likeness.is_dir() else self.source
        return {name: header.file_bytes for name, header in verify(base).headers.items()}

    @property
    def identity(self) -> dict[str, Any]:
        return {**self.plan.identity, "in_place": True}

    def space(self) -> Space:
        """What the work that is left takes."""
        jobs = self.plan.jobs
        needed = {name: jobs.needs(name) for name in jobs.names if self._is_to_do(name)}
        there = {name: size for name, size in self.shards.items() if self._is_there(name)}
        return space(self.stages, needed, there)

    def require_ours(self) -> None:
        """Raise CheckpointError when this folder is not ours to destroy."""
        if self.mark:
            if self.mark["identity"] != self.identity:
                raise CheckpointError(
                    f"{self.source}: is being converted in place with other options", self.command
                )
            return
        ownership.require_complete(self.source)
        files = [self.source / name for name in list_files(self.source)]
        hint = "convert to a folder of its own: leave --in-place out"
        for path in files:
            if path.is_symlink() or (path.stat().st_nlink > 1 and path.name in self.shards):
                what = "is a link: deleting it would free nothing, or what others use"
                raise CheckpointError(f"{path}: {what}", hint)
        if others := [name for name in self.plan.left_out if is_weight(name)]:
            what = f"holds other weights, which would stay: {', '.join(others)}"
            raise CheckpointError(f"{self.source}: {what}", f"move them away, or {hint}")
        if not os.access(self.source, os.W_OK | os.X_OK):
            raise CheckpointError(f"{self.source}: is not ours to write", hint)

    def _mark(self) -> dict[str, Any]:
        path = self.source / ownership.UNFINISHED
        mark = read_json(path) if path.is_file() else {}
        if mark and "phase" not in mark:
            ownership.require_complete(self.source)
        return mark

    def _note(self, **fields: Any) -> None:
        self.mark |= {"identity": self.identity, "command": self.command} | fields
        known = {name: value for name, value in self.mark.items() if name != "identity"}
        with explained(f"cannot write {self.source}"):
            ownership.note(self.source, self.identity, known)

    def _begin(self) -> None:
        require_space(self.source, self.space().peak)
        self._note(phase="converting", nonfinite={}, error={})

    def _convert(self) -> None:
        others = (INDEX, "config.json", ownership.RECORD)
        keep_likeness(self.source, self.shards, others, self.likeness)
        with explained(f"cannot write {self.out}"):
            self.out.mkdir(exist_ok=True)
            sync_folder(self.out.parent)
            sync_folder(self.source)
        for part in self.out.rglob(f"*{PART}"):
            part.unlink()
        require_space(self.source, self.space().peak)
        for stage in self.stages:
            self._make(self.plan.jobs.of(stage.shard))
            self._free(stage)
        self._note(phase="moving")

    def _make(self, job: ShardJob) -> None:
        """Have the output shard, compared with the source. One that has lost a part of its source
        was compared before."""
        whole = all(self._is_there(name) for name in job.sources)
        size = self.plan.jobs.sizes[job.name][0]
        if self._is_to_do(job.name):
            if not whole:
                raise CheckpointError(
                    f"{self.out / job.name}: is damaged, and a shard it was made of is freed",
                    "the source has to be fetched again, into another folder",
                )
            progress = partial(self._progress, self.compared)
            convert([job], self.source, self.out, self.workers, progress, self._remember)
            self.written += 1
        if whole:
            progress = partial(self._progress, self.compared + size / 2)
            compare(job, self.source, self.out, self.workers, progress)
            self._compare_another_way(job)
        self.compared += size

    def _progress(self, before: float, done: int) -> None:
        """Converting a shard is one half of it, comparing the other."""
        what, total = f"to {self.conversion.to} in place", self.plan.source_bytes
        at = min(int(before + done / 2), total)
        self.report(Event("convert", what, done=at, total=total, unit="B"))

    def _remember(self, shard: str, counts: dict[str, int]) -> None:
        self._note(nonfinite={**self.mark["nonfinite"], **counts})

    def _compare_another_way(self, job: ShardJob) -> None:
        homes = {item.name: job.name for item in job.work}
        wrong = compare_samples(homes, lambda shard: job, self.source, self.out)
        if self.plan.verb == "quantized" and not wrong:
            wrong, error = compare_quantized([job], self.source, self.out)
            known: Mapping[str, float] = self.mark["error"]
            worst = {kind: max(value, known.get(kind, 0)) for kind, value in error.items()}
            self._note(error={**known, **worst})
        if wrong:
            raise CheckpointError(
                f"{self.out}: {wrong} differs from the source when computed another way",
                "memory or the disk of this machine may be at fault; the source is still whole",
            )

    def _free(self, stage: Stage) -> None:
        """Delete what nothing needs any more; what tells an engine how to read it, before that."""
        with explained(f"cannot free shards of {self.source}"):
            for name in ("config.json", INDEX, ownership.RECORD) if stage.frees else ():
                (self.source / name).unlink(missing_ok=True)
            sync_folder(self.source)
            for name in stage.frees:
                (self.source / name).unlink(missing_ok=True)
            sync_folder(self.source)

    def _is_to_do(self, shard: str) -> bool:
        return not is_finished(self.plan, shard, self.out)

    def _is_there(self, shard: str) -> bool:
        """Before the moves, when a shard's name means that of the source."""
        return (self.source / shard).is_file()

    def _move(self) -> None:
        plan, folder = self.plan, self.source
        with explained(f"cannot write {folder}"):
            for name in plan.jobs.names:
                if (self.out / name).is_file():
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    (self.out / name).replace(folder / name)
                    sync_folder((folder / name).parent)
            for name in QUANTIZATION_FILES - plan.written.keys():
                (folder / name).unlink(missing_ok=True)
            write_index(folder, plan.weight_map, plan.data_bytes)
            for name, content in plan.written.items():
                write_json(folder / name, content)
            write_json(folder / "config.json", plan.config)
        verify(folder).require()
        with explained(f"cannot write {folder}"):
            ownership.write_record(folder, self.identity, self._record())
        self._note(phase="cleaning")

    def _record(self) -> dict[str, Any]:
        names = [name for name in list_files(self.source) if name != ownership.RECORD]
        return {
            "source": str(self.source.resolve()),
            "source_format": self.plan.source_format.name,
            "format": self.plan.to,
            "in_place": True,
            "total_size": self.plan.data_bytes,
            "nonfinite": self.mark["nonfinite"],
            "error": self.mark["error"],
            "kernel": kernel(),
            "origin": origin(self.likeness),
            "files": {name: (self.source / name).stat().st_size for name in names},
        }

    def _clean(self) -> None:
        with explained(f"cannot write {self.source}"):
            shutil.rmtree(self.source / TREE, ignore_errors=True)
            (self.source / ownership.UNFINISHED).unlink()
            sync_folder(self.source)
