"""``model.safetensors.index.json``, and checkpoints of a single file that have none."""

import reprlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from flagdeploy.checkpoint.folder import inside, parse_json, read_bounded, write_json
from flagdeploy.checkpoint.safetensors_file import read_header
from flagdeploy.errors import CheckpointError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


@dataclass(frozen=True)
class Index:
    """Which shard holds which tensor; `total_size` is what the index file states, in bytes."""

    folder: Path
    weight_map: Mapping[str, str]
    total_size: int | None = None

    @cached_property
    def shards(self) -> tuple[str, ...]:
        return tuple(sorted(set(self.weight_map.values())))


def read_index(folder: Path) -> Index:
    """Read a checkpoint folder's index, or make it from its one ``model.safetensors``.

    Raises CheckpointError when the folder holds no checkpoint, the index is not a map of tensor
    names to file names, or a file name leads out of the folder (``..``, absolute, a link).
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder", "flagdeploy pull fetches a checkpoint")
    path = folder / INDEX
    if path.is_file():
        return _read(path)
    if (folder / SINGLE).is_file():
        header = read_header(inside(folder, SINGLE))
        return Index(folder, dict.fromkeys(header.tensors, SINGLE))
    raise CheckpointError(
        f"{folder}: holds neither {INDEX} nor {SINGLE}: not a safetensors checkpoint"
    )


def _read(path: Path) -> Index:
    raw = read_bounded(path)
    content = parse_json(path, raw)
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path}: has no weight_map")
    # JSON has no control characters but escaped ones and DEL: 100,000 names need no second look.
    plain = raw.isascii() and b"\\" not in raw and b"\x7f" not in raw
    odd = [] if plain else [name for name in weight_map if not name.isprintable()]
    if odd:
        raise CheckpointError(f"{path}: tensor name {odd[0][:80]!r} holds control characters")
    if set(map(type, weight_map.values())) != {str}:
        name, what = next(item for item in weight_map.items() if type(item[1]) is not str)
        raise CheckpointError(
            f"{path}: weight_map: {name[:80]}: {reprlib.repr(what)} is not a file name"
        )
    for shard in set(weight_map.values()):
        inside(path.parent, shard)
    # The same string for each tensor of a shard: 100,000 of them are 8 MB.
    weight_map = dict(zip(weight_map, map(sys.intern, weight_map.values()), strict=True))
    metadata = content.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    # Some writers store the size as a float.
    if isinstance(total, float) and total.is_integer():
        total = int(total)
    return Index(path.parent, weight_map, total if type(total) is int else None)


def write_index(folder: Path, weight_map: Mapping[str, str], total_size: int) -> None:
    """Write the index with `total_size` bytes of tensors, entries sorted by tensor name."""
    entries = dict(sorted(weight_map.items()))
    write_json(folder / INDEX, {"metadata": {"total_size": total_size}, "weight_map": entries})
