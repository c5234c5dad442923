"""Whose output folder is this? Marks that make a folder resumable, finished, or not ours to touch.

While a folder is filled it holds ``.flagdeploy-unfinished.json``; ``flagdeploy.json`` is written
last and means complete. Both carry the identity of the work, so that other work is refused.

Several ranks may fill one folder. Each has a folder of its own in ``.flagdeploy-ranks`` for what it
has not finished, named by a random token, so that two processes never write the same file: locks
keep the ranks from wasting work, but nothing is wrong where the file system has none.
"""

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flagdeploy import __version__
from flagdeploy.checkpoint.folder import PART, explained, read_json, write_json
from flagdeploy.config.rank import Rank
from flagdeploy.errors import CheckpointError
from flagdeploy.records.files import sync_folder

RECORD = "flagdeploy.json"
UNFINISHED = ".flagdeploy-unfinished.json"
RANKS = ".flagdeploy-ranks"
SCHEMA = 1
_NOTE = "note.json"

State = Literal["new", "resume", "complete", "other", "foreign"]


@dataclass(frozen=True)
class Found:
    """What a folder holds, seen from work with a certain identity.

    ``other`` is finished or unfinished work of another identity, ``foreign`` files of unknown
    origin; `mark` is the content of the folder's mark, if any.
    """

    state: State
    mark: Mapping[str, Any]


def look(folder: Path, identity: Mapping[str, Any]) -> Found:
    """Say what `folder` holds; reads its marks only."""
    if found := _marked(folder, identity):
        return found
    if folder.exists() and not folder.is_dir():
        return Found("foreign", {})
    # A process killed while it wrote its first mark leaves only the beginning of that mark.
    if folder.is_dir() and not all(_is_begun_mark(path.name) for path in folder.iterdir()):
        # What is there may have come, after its mark, from a rank that began just now.
        return _marked(folder, identity) or Found("foreign", {})
    return Found("new", {})


def _marked(folder: Path, identity: Mapping[str, Any]) -> Found | None:
    """What the marks of `folder` say, None when it has none."""
    states: dict[str, State] = {UNFINISHED: "resume", RECORD: "complete"}
    for name, state in states.items():
        if (path := folder / name).is_file():
            try:
                mark = read_json(path)
            except CheckpointError:
                if path.exists():
                    raise
                continue  # completed meanwhile: the record is there by now
            return Found(state if mark.get("identity") == dict(identity) else "other", mark)
    return None


def _is_begun_mark(name: str) -> bool:
    return name.startswith(UNFINISHED) and name.endswith(PART)


def refuse_others(folder: Path, found: Found) -> None:
    """Raise CheckpointError when `folder` holds what this work must not touch."""
    if found.state in ("other", "foreign"):
        what = "is not empty and was not made by flagdeploy"
        if found.state == "other":
            what = "holds a conversion of another source, of this source as it was, "
            what += "or to other numbers"
        raise CheckpointError(f"{folder}: {what}", "remove it or give another folder with --out")


@contextmanager
def locked(folder: Path, kind: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Keep other processes out of `folder`, which is created; CheckpointError if one is there."""
    with explained(f"cannot create {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        if not _lock(descriptor, kind):
            raise CheckpointError(
                f"{folder}: another flagdeploy is writing here",
                "wait for it, or stop it; several share the work with --rank R --world-size N",
            )
        yield
    finally:
        os.close(descriptor)


@contextmanager
def own(folder: Path, identity: Mapping[str, Any]) -> Iterator[None]:
    """Mark `folder` as being filled by this work and keep other processes out meanwhile.

    Creates the folder. Raises CheckpointError when another process is filling it.
    """
    with locked(folder):
        with explained(f"cannot write {folder}"):
            _remove_parts(folder / RANKS)
            if (found := look(folder, identity)).state != "resume":
                note(folder, identity, _kept(found))
            (folder / RECORD).unlink(missing_ok=True)
        yield


@contextmanager
def own_share(
    folder: Path, identity: Mapping[str, Any], rank: Rank, *, mend: bool
) -> Iterator[Path]:
    """As `own`, for one of several ranks; gives the folder for its unfinished files and notes.

    A folder that is complete by now stays so, unless the caller saw that it is damaged (`mend`).
    Raises CheckpointError when another process is this rank, or does other work here.
    """
    with locked(folder, fcntl.LOCK_SH), ExitStack() as stack:
        with explained(f"cannot write {folder}"):
            found = look(folder, identity)
            refuse_others(folder, found)
            if found.state == "new" or (found.state == "complete" and mend):
                _mark_first(folder, identity, _kept(found))
                (folder / RECORD).unlink(missing_ok=True)
            (folder / RANKS).mkdir(exist_ok=True)
            stack.enter_context(_locked_rank(folder, rank))
            for old in (folder / RANKS).glob(f"{rank.word}-*"):
                _remove_parts(old)
            mine = folder / RANKS / f"{rank.word}-{secrets.token_hex(4)}"
            mine.mkdir()
        yield mine
        if look(folder, identity).state == "complete":
            shutil.rmtree(folder / RANKS, ignore_errors=True)


@contextmanager
def completing(folder: Path, rank: Rank) -> Iterator[bool]:
    """True for the one rank that may complete the folder now; others wait until it has, and get
    False. Without locks, false as long as the rank that came first has not."""
    path = folder / RANKS / "completing"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except FileNotFoundError:  # complete: nothing is left of the ranks
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        ours = (folder / UNFINISHED).is_file()
    except OSError:
        ours = _claimed(path.with_name("claim"), rank)
    try:
        yield ours
    finally:
        os.close(descriptor)


def note(folder: Path, identity: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    """Replace what the mark of an unfinished folder remembers besides the identity."""
    write_json(folder / UNFINISHED, _content(identity) | dict(fields))


def begun_bytes(folder: Path) -> int:
    """Bytes that the unfinished files of ranks take on the disk by now."""
    blocks = 0
    for part in (folder / RANKS).rglob(f"*{PART}"):
        with suppress(FileNotFoundError):  # finished meanwhile
            blocks += part.stat().st_blocks
    return 512 * blocks


def note_share(mine: Path, fields: Mapping[str, Any]) -> None:
    """As `note`, for the folder that `own_share` gave."""
    write_json(mine / _NOTE, dict(fields))


def noted(folder: Path, field: str) -> dict[str, Any]:
    """What an unfinished folder's mark and all its ranks remember under `field`, a mapping."""
    merged: dict[str, Any] = {}
    for path in (folder / UNFINISHED, *sorted((folder / RANKS).glob(f"*/{_NOTE}"))):
        if path.is_file():
            merged |= read_json(path).get(field, {})
    return dict(sorted(merged.items()))


def complete(folder: Path, identity: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Mark the folder as complete: the record is the last file to appear."""
    with explained(f"cannot write {folder / RECORD}"):
        write_record(folder, identity, record)
        (folder / UNFINISHED).unlink(missing_ok=True)
        shutil.rmtree(folder / RANKS, ignore_errors=True)
        sync_folder(folder)


def write_record(folder: Path, identity: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    content = {"schema": SCHEMA, "tool": f"flagdeploy {__version__}", "identity": dict(identity)}
    write_json(folder / RECORD, content | dict(record))


def require_complete(folder: Path) -> None:
    """Raise CheckpointError when `folder` is still being filled, or what filled it was stopped."""
    path = folder / UNFINISHED
    if path.is_file():
        mark = read_json(path)
        kind = mark.get("identity", {}).get("kind", "work")
        what = {"pull": "a download", "dequant": "a conversion"}.get(kind, kind)
        raise CheckpointError(
            f"{folder}: is unfinished: {what} into this folder has not ended",
            mark.get("command") or f"run the same flagdeploy {kind} again: it goes on where it was",
        )


def _content(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {"schema": SCHEMA, "identity": dict(identity)}


def _kept(found: Found) -> dict[str, Any]:
    """What is known of finished files stays known when a damaged folder is mended."""
    mended = found.state == "complete" and "nonfinite" in found.mark
    return {"nonfinite": found.mark["nonfinite"]} if mended else {}


def _mark_first(folder: Path, identity: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    """Write the mark unless another rank was faster; CheckpointError if that was other work."""
    part = folder / f"{UNFINISHED}.{secrets.token_hex(4)}{PART}"
    write_json(part, _content(identity) | dict(fields))
    try:
        os.link(part, folder / UNFINISHED)
    except FileExistsError:
        refuse_others(folder, look(folder, identity))
    except OSError:  # a file system without hard links
        part.replace(folder / UNFINISHED)
    part.unlink(missing_ok=True)
    sync_folder(folder)


def _claimed(path: Path, rank: Rank) -> bool:
    try:
        with path.open("x") as file:
            file.write(rank.word)
        return True
    except FileExistsError:
        # Ours, when this rank ended before it was done and was started again.
        return path.read_text() == rank.word


def _remove_parts(folder: Path) -> None:
    for part in folder.rglob(f"*{PART}"):
        part.unlink(missing_ok=True)


@contextmanager
def _locked_rank(folder: Path, rank: Rank) -> Iterator[None]:
    path = folder / RANKS / f"{rank.word}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        if not _lock(descriptor, fcntl.LOCK_EX):
            raise CheckpointError(
                f"{folder}: another process is {rank} already",
                "wait for it, or stop it; every process needs a rank of its own",
            )
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # Some network file systems have no locks; there, two plain runs are the user's to avoid.
        pass
    return True
