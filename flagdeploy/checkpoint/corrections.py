"""Correct what other converters leave wrong in a checkpoint's index and config.json."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flagdeploy.checkpoint.folder import inside, list_files, read_json, write_json
from flagdeploy.checkpoint.index import INDEX, read_index, write_index
from flagdeploy.checkpoint.safetensors_file import Header, read_header
from flagdeploy.errors import CheckpointError

_LAYER = re.compile(r"model\.layers\.(\d+)\.")


def correct(folder: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Correct index and config.json of `folder`; returns the names of files that changed.

    The index comes to name, for every tensor, a shard that holds it, ``model-*`` shards first; it
    loses the tensors of MTP layers that no shard holds. Keys of config.json take the values of
    `config`; None removes a key. Raises CheckpointError when no shard holds another tensor that
    the index names.
    """
    return tuple(name for fix in (_index, _config) for name in fix(folder, config))


def _index(folder: Path, _: Mapping[str, Any]) -> Iterator[str]:
    if not (folder / INDEX).is_file():
        return
    index = read_index(folder)
    headers = {shard: read_header(inside(folder, shard)) for shard in _shards(folder)}
    holders = {name: shard for shard, header in headers.items() for name in header.tensors}
    layers = read_json(folder / "config.json").get("num_hidden_layers", 0)
    lost = [name for name in index.weight_map if name not in holders]
    if missing := [name for name in lost if _layer(name) < layers]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(f"{folder}: the index names {missing[0]}{more}, which no shard holds")
    weight_map = {name: holders[name] for name in index.weight_map if name in holders}
    if weight_map != index.weight_map:
        write_index(folder, weight_map, _total(headers, set(weight_map.values())))
        yield INDEX


def _shards(folder: Path) -> list[str]:
    """Files of tensors; ``model-*`` last, so that they win where two hold one tensor."""
    shards = [name for name in list_files(folder) if name.endswith(".safetensors")]
    return sorted(shards, key=lambda name: (name.startswith("model-"), name))


def _layer(name: str) -> int:
    match = _LAYER.match(name)
    return int(match[1]) if match else -1


def _total(headers: Mapping[str, Header], shards: set[str]) -> int:
    return sum(headers[shard].data_bytes for shard in shards)


def _config(folder: Path, changes: Mapping[str, Any]) -> Iterator[str]:
    if not changes:
        return
    config = read_json(folder / "config.json")
    kept = {name: value for name, value in config.items() if changes.get(name, 0) is not None}
    corrected = kept | {name: value for name, value in changes.items() if value is not None}
    if json.dumps(corrected) != json.dumps(config):
        write_json(folder / "config.json", corrected)
        yield "config.json"
