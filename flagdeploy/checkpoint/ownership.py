"""Whose output folder is this? Marks that make a folder resumable, finished, or not ours to touch.

While a folder is filled it holds ``.flagdeploy-unfinished.json``; ``flagdeploy.json`` is written
last and means complete. Both carry the identity of the work, so that other work is refused.
"""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flagdeploy import __version__
from flagdeploy.checkpoint.folder import PART, explained, read_json, write_json
from flagdeploy.errors import CheckpointError
from flagdeploy.records.files import sync_folder

RECORD = "flagdeploy.json"
UNFINISHED = ".flagdeploy-unfinished.json"
SCHEMA = 1

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
    for name, ours in ((UNFINISHED, "resume"), (RECORD, "complete")):
        if (folder / name).is_file():
            mark = read_json(folder / name)
            same = mark.get("identity") == dict(identity)
            state: State = "other" if not same else "resume" if ours == "resume" else "complete"
            return Found(state, mark)
    if folder.exists() and not folder.is_dir():
        return Found("foreign", {})
    # A process killed while it wrote its first mark leaves only the beginning of that mark.
    if folder.is_dir() and any(path.name != UNFINISHED + PART for path in folder.iterdir()):
        return Found("foreign", {})
    return Found("new", {})


@contextmanager
def own(folder: Path, identity: Mapping[str, Any]) -> Iterator[None]:
    """Mark `folder` as being filled by this work and keep other processes out meanwhile.

    Creates the folder. Raises CheckpointError when another process is filling it.
    """
    with explained(f"cannot create {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor, folder)
        with explained(f"cannot write {folder}"):
            if look(folder, identity).state != "resume":
                note(folder, identity, {})
            (folder / RECORD).unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)


def note(folder: Path, identity: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    """Replace what the mark of an unfinished folder remembers besides the identity."""
    content = {"schema": SCHEMA, "identity": dict(identity)}
    write_json(folder / UNFINISHED, content | dict(fields))


def complete(folder: Path, identity: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Mark the folder as complete: the record is the last file to appear."""
    content = {"schema": SCHEMA, "tool": f"flagdeploy {__version__}", "identity": dict(identity)}
    with explained(f"cannot write {folder / RECORD}"):
        write_json(folder / RECORD, content | dict(record))
        (folder / UNFINISHED).unlink()
        sync_folder(folder)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CheckpointError(
            f"{folder}: another flagdeploy is writing here", "wait for it, or stop it"
        ) from None
    except OSError:
        # Some network file systems have no locks; there, two processes are the user's to avoid.
        return
