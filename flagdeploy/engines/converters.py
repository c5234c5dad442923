"""A vendor's own converter as a row of an engine's table (`converters:` in env/engines/E.yaml).

Words in braces are filled in: `{source}` and `{product}` by every engine, others by its module.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Converter:
    """One program inside the engine's image, and what has to be there when it ends with 0."""

    name: str
    stage: Literal["checkpoint", "weight_cache"]
    """What it makes: model.checkpoint of model.source, or model.weight_cache of the former."""
    run: tuple[str, ...]
    disk: float
    """Bytes that it writes at most for each byte of the source's shards."""
    precision: str = ""
    """`model.precision` of the checkpoint it makes."""
    models: tuple[str, ...] = ()
    """`model_type` of the models that it knows; empty: any."""
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str | None = None
    devices: bool = False
    """It computes on the accelerators, so no rank may hold them meanwhile."""
    needs: tuple[str, ...] = ()
    """Arguments that it does not run without."""
    paths: tuple[str, ...] = ()
    """Arguments that name a file or folder of the host; mounted read-only."""
    parts: tuple[str, str] | tuple[()] = ()
    """Arguments (how many, which) of a converter that runs as several processes, one a part."""
    expects: tuple[str, ...] = ()
    """Files that the product must hold at the end."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """What it leaves wrong in the product's config.json: keys to set, null removes a key."""
    since: str = ""
    until: str = ""
    """Versions of the engine whose image holds it."""
