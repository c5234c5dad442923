"""pull --dataset: a public test set from its pinned source, every file checked.

Checked against the hash that is known of a file; where none is, against what the hub states for the
pinned commit, and recorded: from then on the recorded one counts (trust on first use).
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flagdeploy.checkpoint import hub
from flagdeploy.checkpoint.disk import require_space
from flagdeploy.checkpoint.folder import explained
from flagdeploy.config import workspace as workspaces
from flagdeploy.config.secret import Secret
from flagdeploy.errors import EvalError
from flagdeploy.evals import dataset as datasets
from flagdeploy.evals import download
from flagdeploy.evals.dataset import DataSet, Hub, Manifest, Web
from flagdeploy.plans.pull import PullPlan
from flagdeploy.records.events import Event, Report, silent
from flagdeploy.records.files import write_private
from flagdeploy.records.lock import deployment_lock
from flagdeploy.workflows.pull import hashed, watching

RECORD = "flagdeploy.json"
TOKEN = "HF_TOKEN"


@dataclass(frozen=True)
class PulledDataSet:
    """Where a set is now; `hashes` are SHA-256 by file, `first_use` those nobody knew before."""

    name: str
    dataset: DataSet
    folder: Path
    hashes: Mapping[str, str]
    first_use: tuple[str, ...]
    planned: bool = False

    def __str__(self) -> str:
        if self.planned:
            lines = [f"pull {self.dataset.title} into {self.folder}"]
        else:
            lines = [f"{self.folder}: {self.dataset.title}, {_files(self.hashes)}"]
        lines.append(f"  from {described(self.dataset)}")
        lines.append(f"  licence: {self.dataset.licence}")
        if self.first_use:
            lines.append(
                f"  {_files(self.first_use)} checked against the hub's own hashes only, as none "
                "are published; they are recorded now, and later pulls are held to them"
            )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "title": self.dataset.title,
            "licence": self.dataset.licence,
            "folder": str(self.folder),
            "source": described(self.dataset),
            "sha256": dict(self.hashes),
            "first_use": list(self.first_use),
        }


def pull_dataset(
    name: str,
    to: Path | None = None,
    *,
    endpoint: str | None = None,
    workspace: str | None = None,
    dry_run: bool = False,
    report: Report = silent,
) -> PulledDataSet:
    """Fetch the set `name` into `to` (default: data/NAME of the workspace), or go on fetching it.

    `endpoint` is a mirror of the hub. Gated sets are asked for with the token in $HF_TOKEN. Raises
    UsageError for an unknown set, EvalError or CheckpointError when it cannot be had, or is not
    what was published.
    """
    name = datasets.canonical(name)
    dataset = datasets.load(name)
    folder = to or workspaces.writable_folder(workspaces.find(workspace)) / "data" / name
    if dry_run:
        return PulledDataSet(name, dataset, folder, dataset.hashes, (), planned=True)
    folder.mkdir(parents=True, exist_ok=True)
    recorded = _recorded(folder)
    with deployment_lock(folder, "pull"), explained(f"cannot write {folder}"):
        match dataset.source:
            case Hub() as source:
                hashes = _from_hub(source, recorded, folder, endpoint, report)
            case Web(files=files):
                hashes = _from_web(files, folder, report)
            case Manifest() as source:
                hashes = _from_web(_listed(source), folder, report)
        first = tuple(file for file in hashes if file not in dataset.hashes)
        pulled = PulledDataSet(name, dataset, folder, hashes, first)
        text = json.dumps(pulled.to_dict(), indent=2, ensure_ascii=False)
        write_private(folder / RECORD, text.encode() + b"\n")
    return pulled


def listing() -> list[dict[str, Any]]:
    """Every set: its name, what it is and how much of it there is."""
    rows = []
    for name in datasets.names():
        dataset = datasets.load(name)
        row = {"name": name, "title": dataset.title, "rows": dataset.rows}
        rows.append({**row, "licence": dataset.licence, "source": described(dataset)})
    return rows


def described(dataset: DataSet) -> str:
    """Where a set comes from, in words."""
    match dataset.source:
        case Hub(repository=repository, commit=commit, gated=gated):
            return f"{repository} at {commit}{', gated' if gated else ''}"
        case Web(files=files):
            return ", ".join(url for url, _ in files.values())
        case Manifest(uri=uri):
            return uri


def _from_hub(
    source: Hub, recorded: Mapping[str, str], folder: Path, endpoint: str | None, report: Report
) -> dict[str, str]:
    given = os.environ.get(TOKEN)
    token = Secret(given, TOKEN) if given else None
    snapshot = hub.resolve(source.repository, source.commit, endpoint, token, "dataset")
    wanted = [
        file
        for file in sorted(snapshot.files)
        if any(fnmatchcase(file, pattern) for pattern in source.files)
    ]
    if not wanted:
        raise EvalError(
            f"{source.repository} at {source.commit[:12]} has none of {', '.join(source.files)}",
            f"it has {', '.join(sorted(snapshot.files)[:10])}",
        )
    plan = PullPlan(source.repository, {name: snapshot.files[name].size for name in wanted}, {})
    require_space(folder, plan.total_bytes - hub.bytes_present(folder, plan.files))
    with watching(plan, folder, report):
        hub.download(snapshot, wanted, folder, endpoint, token)
    stated = {name: snapshot.files[name].digest for name in wanted}
    hashes = hashed(folder, stated, plan, report, "data set")
    for name, found in hashes.items():
        known = source.files.get(name) or recorded.get(name)
        if known and known != found:
            (folder / name).unlink()
            raise EvalError(
                f"{source.repository}: {name} is not the file that was published: its SHA-256 is "
                f"{found[:12]}..., not {known[:12]}...",
                "it was removed; try the hub itself if this was a mirror",
            )
    return hashes


def _from_web(files: Mapping[str, tuple[str, str]], folder: Path, report: Report) -> dict[str, str]:
    hashes = {}
    for name, (url, known) in files.items():

        def progress(done: int, total: int | None, name: str = name) -> None:
            report(Event("pull", name, done=done, total=total, unit="B"))

        hashes[name] = download.fetch(url, folder / name, known, progress)
    return hashes


def _listed(source: Manifest) -> dict[str, tuple[str, str]]:
    """Addresses of the wanted files of a manifest, held to what it says of their hashes.

    Format (mlcommons/r2-downloader): the ``.uri`` holds the address of a folder; ``.md5`` beside
    it has lines of md5sum, ``HASH  ./NAME``.
    """
    base = download.get_text(source.uri).strip().rstrip("/")
    if urlsplit(base).scheme not in ("http", "https") or len(base.split()) != 1:
        raise EvalError(f"{source.uri}: holds no address: {base[:80]!r}")
    sums = download.get_text(f"{source.uri.removesuffix('.uri')}.md5")
    rows = (line.split(maxsplit=1) for line in sums.splitlines() if line.strip())
    stated = {row[1].strip().removeprefix("./"): row[0] for row in rows if len(row) == 2}
    for name, known in source.files.items():
        if stated.get(name) != known:
            raise EvalError(
                f"{source.uri}: has {name} with MD5 {stated.get(name)}, not {known}",
                "MLCommons publishes another file now: name yours with --data",
            )
    return {name: (f"{base}/{name}", known) for name, known in source.files.items()}


def _recorded(folder: Path) -> dict[str, str]:
    """Hashes that an earlier pull recorded."""
    try:
        found: dict[str, str] = json.loads((folder / RECORD).read_text("utf-8"))["sha256"]
    except (OSError, ValueError, KeyError):
        return {}
    return found


def _files(names: Any) -> str:
    return f"{len(names)} file{'' if len(names) == 1 else 's'}"
