"""The keys a configuration may have, read off the schema, and suggestions for those it may not."""

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from typing import Any, get_args, get_type_hints

from flagdeploy.config.schema import Deployment
from flagdeploy.config.yaml_file import KeyPath

# What users of the engines call a key; only ever used for a suggestion.
_KNOWN_AS = {
    "tp": "parallel.tensor",
    "tp_size": "parallel.tensor",
    "tensor_parallel_size": "parallel.tensor",
    "pp": "parallel.pipeline",
    "pipeline_parallel_size": "parallel.pipeline",
    "ep": "parallel.expert",
    "dp": "parallel.data",
    "data_parallel_size": "parallel.data",
    "enable_attention_dp": "parallel.attention_data",
    "max_model_len": "limits.context_length",
    "max_batch_size": "limits.max_num_seqs",
    "gpu_memory_utilization": "limits.memory_fraction",
    "kv_cache_dtype": "kv_cache.dtype",
    "image": "container.image",
    "env": "container.env",
    "envs": "container.env",
    "port": "endpoint.port",
    "host": "endpoint.host",
    "hosts": "hostfile",
    "model_path": "model.checkpoint",
    "enforce_eager": "cuda_graph.enabled",
}


@dataclass(frozen=True)
class Key:
    """One leaf of the schema."""

    path: KeyPath
    type: Any
    default: Any
    help: str
    open: bool
    """True for mappings whose own keys are free (environment, engine arguments)."""

    def __str__(self) -> str:
        return ".".join(self.path)


@cache
def schema_keys() -> dict[KeyPath, Key]:
    """Every leaf of `Deployment` by its path."""
    return {key.path: key for key in _walk(Deployment, ())}


@cache
def sections() -> dict[KeyPath, type]:
    """Every section (nested dataclass) by its path."""
    return dict(_sections(Deployment, ()))


def section_of(hint: Any) -> type | None:
    """The dataclass behind a type hint such as ``Parallel`` or ``RelaxedAcceptance | None``."""
    options = [hint, *get_args(hint)]
    return next((o for o in options if isinstance(o, type) and is_dataclass(o)), None)


def find(path: KeyPath) -> Key | None:
    """The schema key that `path` belongs to: itself, or the open mapping or list it lies in."""
    for length in range(len(path), 0, -1):
        key = schema_keys().get(path[:length])
        if key:
            return key if length == len(path) or key.open or "list" in str(key.type) else None
    return None


def suggestion(path: KeyPath) -> str | None:
    """The key that was probably meant."""
    import difflib  # wanted by errors only

    known = _KNOWN_AS.get(path[-1].replace("-", "_"))
    if known:
        return known
    names = {".".join(p): p for p in [*schema_keys(), *sections()]}
    siblings = {p[-1]: n for n, p in names.items() if p[:-1] == path[:-1]}
    if close := difflib.get_close_matches(path[-1], siblings, 1):
        return siblings[close[0]]
    elsewhere = [n for n, p in names.items() if p[-1] == path[-1]]
    close = difflib.get_close_matches(".".join(path), names, 1)
    return next(iter([*elsewhere, *close]), None)


def _walk(cls: type, path: KeyPath) -> Iterator[Key]:
    hints = get_type_hints(cls)
    for item in fields(cls):
        here, hint = (*path, item.name), hints[item.name]
        section = section_of(hint)
        if section:
            yield from _walk(section, here)
            continue
        default = item.default
        if default is MISSING and item.default_factory is not MISSING:
            default = item.default_factory()
        is_open = str(hint).startswith("dict")
        yield Key(here, hint, default, item.metadata.get("help", ""), is_open)


def _sections(cls: type, path: KeyPath) -> Iterator[tuple[KeyPath, type]]:
    hints = get_type_hints(cls)
    for item in fields(cls):
        section = section_of(hints[item.name])
        if section:
            yield (*path, item.name), section
            yield from _sections(section, (*path, item.name))
