"""verify: headers > records > data (hashes, values) > against the source, computed again."""

import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flagdeploy.checkpoint.act_scales import read_act_scales
from flagdeploy.checkpoint.against import ClassError, Task, compare
from flagdeploy.checkpoint.folder import inside, read_json
from flagdeploy.checkpoint.hashes import read_data
from flagdeploy.checkpoint.index import INDEX
from flagdeploy.checkpoint.ownership import RECORD, UNFINISHED
from flagdeploy.checkpoint.reading import OpenFolder
from flagdeploy.checkpoint.recorded import Recorded, check_recorded, recorded
from flagdeploy.checkpoint.verify import Finding, Verification
from flagdeploy.checkpoint.verify import verify as read_headers
from flagdeploy.errors import CheckpointError, UsageError
from flagdeploy.plans.verify import (
    differing_tensors,
    expected_of,
    shape_findings,
    tasks,
)
from flagdeploy.plans.w4afp8 import ACT_SCALES
from flagdeploy.records.events import Event, Report, silent
from flagdeploy.records.sizes import readable

SAMPLE = 64
_SHOWN = 50


@dataclass(frozen=True)
class Against:
    """What computing tensors again from `source` told: `compared` of `tensors` of `conversion`."""

    source: Path
    conversion: str
    compared: int
    tensors: int
    classes: tuple[ClassError, ...]

    def __str__(self) -> str:
        head = ("class", "tensors", "elements", "bits", "max abs", "rel RMS", "worst tensor")
        rows = [head, *map(_row, self.classes)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        lines = [
            "  " + "  ".join(map(str.ljust, row, widths)).rstrip()  # cells of one row
            for row in rows
        ]
        count = f"{self.compared} of {self.tensors} tensors computed again"
        return "\n".join([f"{self.conversion} of {self.source}: {count}", *lines])


def _row(found: ClassError) -> tuple[str, ...]:
    worst = f"{found.worst} ({found.worst_relative:.3%})" if found.worst_relative else "-"
    return (
        found.name,
        str(found.tensors),
        str(found.elements),
        "identical" if found.identical else "DIFFER",
        f"{found.largest:.3g}",
        f"{found.relative:.3%}" if found.relative else "0",
        worst,
    )


@dataclass(frozen=True)
class VerifyResult:
    """What is wrong with a checkpoint: `findings`, none when it is whole; `checked` says what was
    looked at, `notes` are oddities no engine minds."""

    folder: Path
    shards: int
    tensors: int
    data_bytes: int
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    checked: tuple[str, ...]
    against: Against | None = None

    @property
    def ok(self) -> bool:
        return not self.findings

    def __str__(self) -> str:
        lines = [str(finding) for finding in self.findings[:_SHOWN]]
        if len(self.findings) > _SHOWN:
            lines.append(f"and {len(self.findings) - _SHOWN} more; --json has all")
        lines += [str(self.against)] if self.against else []
        state = "whole" if self.ok else f"{len(self.findings)} problem(s)"
        size = f"{self.shards} shard(s), {self.tensors} tensors, {readable(self.data_bytes)}"
        return "\n".join([*lines, f"{self.folder}: {size}: {state} ({', '.join(self.checked)})"])

    def to_dict(self) -> dict[str, Any]:
        found = asdict(self)
        found |= {"folder": str(self.folder), "ok": self.ok, "checked": list(self.checked)}
        if self.against:
            found["against"]["source"] = str(self.against.source)
        return found


def verify(
    checkpoint: str | Path,
    against: str | Path | None = None,
    *,
    hashes: bool = False,
    nan: bool = False,
    sample: int | None = SAMPLE,
    workers: int | None = None,
    report: Report = silent,
) -> VerifyResult:
    """Verify a checkpoint folder; reads headers, index and sizes unless asked for more.

    `hashes` compares every file with the hash recorded when it came (by pull or huggingface_hub),
    `nan` searches all values for NaN and infinities; both read all data, once. `against` is the
    folder that this one is a conversion (by whatever tool) or a copy of: `sample` of its tensors,
    or with None all, are computed again in double precision.

    Raises CheckpointError when there is no checkpoint, or not yet, when `against` is damaged or no
    conversion leads from it to this one; UsageError when no hash is known.
    """
    folder = Path(checkpoint)
    threads = workers or min(16, len(os.sched_getaffinity(0)))
    known = recorded(folder)
    if hashes and not known.digests:
        raise UsageError(
            f"--hashes: no hash is known of any file in {folder}",
            "pull records them; a conversion is computed again with --against SOURCE",
        )
    if (folder / UNFINISHED).is_file() and not (folder / INDEX).is_file():
        raise CheckpointError(
            f"{folder}: is not complete: a pull or dequant into it was interrupted",
            "the same command again goes on where it was",
        )
    headers = read_headers(folder)
    findings = [*headers.findings, *shape_findings(headers)]
    bad = {finding.file for finding in findings}
    findings += check_recorded(folder, known, headers.headers, bad)
    checked = ["headers and sizes"]
    if hashes or nan:
        findings += _read(headers, known, findings, hashes, nan, threads, report)
        checked += [f"hashes of {len(known.digests)} file(s) of {known.by}"] if hashes else []
        checked += ["values"] if nan else []
    compared = None
    if against is not None:
        compared, wrong = _compare(headers, Path(against), sample, threads, report)
        findings += wrong
        checked.append("against the source")
    return VerifyResult(
        folder=folder,
        shards=len(headers.index.shards),
        tensors=headers.tensors,
        data_bytes=headers.data_bytes,
        findings=tuple(findings),
        notes=(*headers.notes, *_unknown(headers, known, hashes)),
        checked=tuple(checked),
        against=compared,
    )


def _unknown(headers: Verification, known: Recorded, hashes: bool) -> list[str]:
    """Shards that no hash is known of, if hashes matter."""
    lacking = [shard for shard in headers.index.shards if shard not in known.digests]
    return [f"{known.by} has no hash of {', '.join(lacking)}"] if hashes and lacking else []


def _read(
    headers: Verification,
    known: Recorded,
    findings: list[Finding],
    hashes: bool,
    nan: bool,
    workers: int,
    report: Report,
) -> tuple[Finding, ...]:
    """Read the data of all files whose fault is not known yet."""
    bad = {finding.file for finding in findings if finding.kind not in ("scale", "side file")}
    digests = {n: d for n, d in known.digests.items() if hashes and n not in bad}
    shards = {n: h for n, h in headers.headers.items() if nan and n not in bad}
    folder = headers.index.folder
    paths = [inside(folder, name) for name in {*digests, *shards}]
    total = sum(path.stat().st_size for path in paths if path.is_file())
    _, found = read_data(folder, digests, shards, _progress("read", total, report), workers)
    return found


def _progress(what: str, total: int, report: Report) -> Callable[[int], None]:
    done = 0

    def add(count: int) -> None:
        nonlocal done
        done += count
        report(Event("verify", what, done=done, total=total, unit="B"))

    return add


def _compare(
    headers: Verification, source: Path, sample: int | None, workers: int, report: Report
) -> tuple[Against, list[Finding]]:
    folder = headers.index.folder
    original = read_headers(source).require()
    scales = inside(folder, ACT_SCALES)
    expected = expected_of(original, headers, read_act_scales(scales) if scales.is_file() else None)
    findings = differing_tensors(expected, headers)
    if expected.act_scales and not scales.is_file():
        findings.append(Finding(ACT_SCALES, "missing", "the activation scales of the experts"))
    work: Iterable[Task] = tasks(expected, headers, sample)
    total = expected.plan.source_bytes
    if sample is not None:
        work = chosen = list(work)
        total = sum(task.nbytes for task in chosen)

    def progress(done: int) -> None:
        report(Event("verify", "computed again", done=done, total=total, unit="B"))

    with OpenFolder(source) as before, OpenFolder(folder) as after:
        any_nan = not _by_flagdeploy(folder)
        done = compare(work, before, after, workers, progress, any_nan=any_nan)
    compared = Against(source, expected.plan.to, done.tensors, len(expected.tensors), done.classes)
    return compared, [*findings, *done.findings]


def _by_flagdeploy(folder: Path) -> bool:
    """True for what dequant wrote: then even the bits of a NaN are defined."""
    path = folder / RECORD
    return path.is_file() and read_json(path).get("identity", {}).get("kind") == "dequant"
