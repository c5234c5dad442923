"""pull: resolve the source > plan > check the disk > fetch > verify every shard > record."""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flagdeploy.checkpoint import hub, ownership
from flagdeploy.checkpoint.copying import copy_file, unchanged
from flagdeploy.checkpoint.disk import free_space, require_space
from flagdeploy.checkpoint.folder import explained, inside, list_files
from flagdeploy.checkpoint.hashes import check_hashes, file_digest
from flagdeploy.checkpoint.verify import Verification, raise_findings, verify
from flagdeploy.config.secret import Secret
from flagdeploy.errors import CheckpointError, UsageError
from flagdeploy.plans.pull import PullPlan, plan_pull
from flagdeploy.records.events import Event, Report, silent
from flagdeploy.records.sizes import readable

Outcome = Literal["planned", "in place", "pulled", "already here"]
_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class PullResult:
    """Where the checkpoint is and what was verified; `commit` is None for a local folder.

    `verification` is None for a plan that was only made.
    """

    folder: Path
    outcome: Outcome
    plan: PullPlan
    commit: str | None
    verification: Verification | None

    def __str__(self) -> str:
        if self.outcome == "planned":
            free = readable(free_space(self.folder))
            return f"{self.plan}\n  to {self.folder}, where {free} are free"
        if self.outcome == "in place":
            return f"{self.folder}: verified in place, {readable(self.plan.total_bytes)}"
        revision = f" at {self.commit[:12]}" if self.commit else ""
        what = f"{self.plan.source}{revision}, {readable(self.plan.total_bytes)}, verified"
        return f"{self.folder}: {self.outcome}: {what}"

    def to_dict(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "outcome": self.outcome,
            "commit": self.commit,
            "plan": self.plan.to_dict(),
            "notes": list(self.verification.notes) if self.verification else [],
        }


def pull(
    checkpoint: str | Path,
    revision: str | None = None,
    to: str | Path | None = None,
    *,
    endpoint: str | None = None,
    token: Secret | None = None,
    dry_run: bool = False,
    report: Report = silent,
) -> PullResult:
    """Fetch a checkpoint into the folder `to` and verify every file of it.

    `checkpoint` is a repository of the hub (``OWNER/NAME``), fetched from `endpoint` or
    $HF_ENDPOINT at `revision`, which is pinned to its commit; or a local folder, which is copied,
    or, without `to`, verified where it is. `to` defaults to ``models/NAME``. A pull that was
    interrupted goes on where it was; a newer revision of the same repository replaces the older.
    ``flagdeploy.json`` appears last and names the commit and every file's SHA-256.

    Raises CheckpointError when the source cannot be had or is damaged, the disk is too small, or
    `to` holds something else.
    """
    if is_local(checkpoint):
        return _pull_local(Path(checkpoint).expanduser(), revision, to, dry_run, report)
    repository = str(checkpoint)
    snapshot = hub.resolve(repository, revision, endpoint, token)
    sizes = {name: file.size for name, file in snapshot.files.items()}
    plan = plan_pull(repository, sizes)
    folder = Path(to) if to else Path("models") / repository.rpartition("/")[2]
    identity = {"kind": "pull", "source": repository, "commit": snapshot.commit}

    def fetch() -> dict[str, str]:
        with watching(plan, folder, report):
            hub.download(snapshot, tuple(plan.files), folder, endpoint, token)
        known = {name: snapshot.files[name].digest for name in plan.files}
        return hashed(folder, known, plan, report)

    present = hub.bytes_present(folder, plan.files)
    return _fill(folder, identity, plan, snapshot.commit, present, dry_run, fetch)


def is_local(checkpoint: str | Path) -> bool:
    """True when `checkpoint` means a folder of this machine: it is written as a path or exists."""
    text = str(checkpoint)
    looks_local = isinstance(checkpoint, Path) or text.startswith(("/", "./", "../", "~"))
    return looks_local or text in (".", "..") or Path(text).is_dir()


def _pull_local(
    source: Path, revision: str | None, to: str | Path | None, dry_run: bool, report: Report
) -> PullResult:
    if revision:
        raise UsageError(f"--revision {revision}: the folder {source} has no revisions")
    if not source.is_dir():
        hint = "a repository of the hub is written OWNER/NAME"
        raise CheckpointError(f"{source}: no such folder", hint)
    ownership.require_complete(source)
    found = verify(source).require()
    files = {name: inside(source, name) for name in list_files(source)}
    plan = plan_pull(str(source), {name: path.stat().st_size for name, path in files.items()})
    if to is None or Path(to).resolve() == source.resolve():
        return PullResult(source, "planned" if dry_run else "in place", plan, None, found)
    folder = Path(to)
    stamps = "\n".join(f"{n} {files[n].stat().st_mtime_ns} {plan.files[n]}" for n in plan.files)
    state = hashlib.sha256(stamps.encode()).hexdigest()
    identity = {"kind": "pull", "source": str(source.resolve()), "state": state}

    def fetch() -> dict[str, str]:
        return _copy({name: files[name] for name in plan.files}, folder, plan, report)

    present = sum(plan.files[name] for name in plan.files if unchanged(files[name], folder / name))
    return _fill(folder, identity, plan, None, present, dry_run, fetch)


def _fill(
    folder: Path,
    identity: Mapping[str, Any],
    plan: PullPlan,
    commit: str | None,
    present: int,
    dry_run: bool,
    fetch: Callable[[], dict[str, str]],
) -> PullResult:
    """Bring `folder` to what `plan` says with `fetch`, which returns every file's SHA-256."""
    found = ownership.look(folder, identity)
    mark_source = found.mark.get("identity", {}).get("source")
    if found.state == "foreign" or (found.state == "other" and mark_source != identity["source"]):
        what = f"holds {mark_source}" if mark_source else "is not empty and was not made by pull"
        raise CheckpointError(f"{folder}: {what}", "remove it or give another folder with --to")
    if found.state == "complete" and present == plan.total_bytes:
        verification = verify(folder)
        if verification.ok:
            return PullResult(folder, "already here", plan, commit, verification)
    if dry_run:
        return PullResult(folder, "planned", plan, commit, None)
    require_space(folder, plan.total_bytes - present)
    with ownership.own(folder, identity):
        _remove_stale(folder, plan, found)
        hashes = fetch()
        verification = verify(folder).require()
        files = {n: {"size": plan.files[n], "sha256": hashes[n]} for n in plan.files}
        record = {"source": plan.source, "revision": commit, "files": files}
        ownership.complete(folder, identity, record)
    return PullResult(folder, "pulled", plan, commit, verification)


def _remove_stale(folder: Path, plan: PullPlan, found: ownership.Found) -> None:
    """Remove the files an earlier revision brought and this one no longer has."""
    for name in found.mark.get("files", {}):
        if name not in plan.files:
            inside(folder, name).unlink(missing_ok=True)


def _copy(
    files: Mapping[str, Path], folder: Path, plan: PullPlan, report: Report
) -> dict[str, str]:
    done = 0

    def progress(count: int) -> None:
        nonlocal done
        done += count
        report(Event("pull", plan.source, done=done, total=plan.total_bytes, unit="B"))

    hashes = {}
    for name, path in files.items():
        with explained(f"cannot copy {path} to {folder / name}"):
            if unchanged(path, folder / name):
                hashes[name] = file_digest(folder / name, "sha256", progress)
            else:
                hashes[name] = copy_file(path, folder / name, progress)
    return hashes


def hashed(
    folder: Path,
    known: Mapping[str, str],
    plan: PullPlan,
    report: Report,
    of: str = "checkpoint",
) -> dict[str, str]:
    """Check every file against the hub's hashes; bad files are removed so that they come again."""
    done = 0

    def progress(count: int) -> None:
        nonlocal done
        done += count
        report(Event("verify", "hashes", done=done, total=plan.total_bytes, unit="B"))

    workers = min(4, len(os.sched_getaffinity(0)))
    hashes, findings = check_hashes(folder, known, progress, workers)
    for finding in findings:
        inside(folder, finding.file).unlink(missing_ok=True)
    raise_findings(
        folder, findings, "the bad files were removed: pull again, or from another mirror", of
    )
    return hashes


@contextmanager
def watching(plan: PullPlan, folder: Path, report: Report) -> Iterator[None]:
    """Report the bytes on disk every half second while the block runs."""
    stop = threading.Event()

    def show() -> None:
        done = hub.bytes_present(folder, plan.files)
        report(Event("pull", plan.source, done=done, total=plan.total_bytes, unit="B"))

    def watch() -> None:
        while not stop.wait(_POLL_SECONDS):
            show()

    thread = threading.Thread(target=watch, name="pull-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    show()
