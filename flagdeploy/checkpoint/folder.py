"""Files that appear whole or not at all, in folders whose names are kept from reaching outside."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from flagdeploy.checkpoint import strict_json
from flagdeploy.errors import CheckpointError
from flagdeploy.records.files import sync_folder

PART = ".part"
# The index of a model with 100,000 tensors takes 10 MB.
_MAX_JSON_BYTES = 64 << 20
WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack"}


def is_sane(name: str) -> bool:
    """True for a relative file name that stays below its folder, whatever the system."""
    path = PurePosixPath(name)
    plain = name.isprintable() and "\\" not in name and path.parts
    return bool(plain) and not path.is_absolute() and ".." not in path.parts


def inside(folder: Path, name: str) -> Path:
    """The path of `name` in `folder`; CheckpointError when it would lie outside, links followed.

    One exception: a snapshot of the Hugging Face cache (``models--X/snapshots/COMMIT``) is made of
    links into ``models--X/blobs``.
    """

    def refuse(why: str) -> NoReturn:
        raise CheckpointError(f"{folder}: refuses the file name {name[:80]!r}: {why}")

    if not is_sane(name):
        refuse("it leaves the folder")
    path = folder / name
    try:
        if path.parent == folder and not path.is_symlink():
            return path
        target = Path(os.path.realpath(path))
    except OSError as error:
        refuse(error.strerror or "")
    allowed = [folder.resolve()]
    if folder.resolve().parent.name == "snapshots":
        allowed.append(folder.resolve().parent.parent / "blobs")
    if not any(target.is_relative_to(root) for root in allowed):
        raise CheckpointError(
            f"{path}: is a link to {target}, outside the checkpoint",
            "replace the link by the file it points to",
        )
    return path


def list_files(folder: Path) -> list[str]:
    """Names, relative and sorted, of all files of a checkpoint; hidden ones and unfinished
    ``.part`` files are none of it. Raises CheckpointError for a link that leads outside."""
    names = []
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if any(part.startswith(".") for part in relative.parts) or path.name.endswith(PART):
            continue
        if path.is_symlink():
            inside(folder, relative.as_posix())
        if path.is_file():
            names.append(relative.as_posix())
    return sorted(names)


def is_weight(name: str) -> bool:
    """True for a file that holds weights, in whatever framework's container."""
    return PurePosixPath(name).suffix in WEIGHT_SUFFIXES


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; CheckpointError names the file when it is missing or is not one."""
    return parse_json(path, read_bounded(path))


def read_bounded(path: Path) -> bytes:
    """Read a JSON file; CheckpointError when it is missing or of a size that JSON never has."""
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise CheckpointError(f"{path}: is larger than {_MAX_JSON_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None


def parse_json(path: Path, raw: bytes) -> dict[str, Any]:
    """Parse the JSON object that a file holds; CheckpointError names the file."""
    try:
        value = strict_json.parse(raw)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: is not a JSON object")
    return value


def write_json(path: Path, value: Any) -> None:
    """Write JSON as Hugging Face's files have it, atomically and durably."""
    write_file(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def write_file(path: Path, content: bytes) -> None:
    """Replace `path` by `content` so that a reader, or a crash, sees the old file or the new."""
    part = path.with_name(path.name + PART)
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    publish(part, path)


def publish(part: Path, path: Path) -> None:
    """Give a finished, synced file its name, durably."""
    part.replace(path)
    sync_folder(path.parent)


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn an OSError inside the block into a CheckpointError that says what to do."""
    try:
        yield
    except OSError as error:
        hint = "run the same command again: finished files are kept"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = f"free some space, then {hint}"
        raise CheckpointError(f"{what}: {error.strerror or error}", hint) from error
