"""What every conversion of a checkpoint plans: one job per output shard, and the side files."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from flagdeploy.checkpoint.folder import is_weight
from flagdeploy.checkpoint.formats import Format
from flagdeploy.checkpoint.index import INDEX
from flagdeploy.checkpoint.jobs import ShardJob
from flagdeploy.checkpoint.ownership import RECORD
from flagdeploy.checkpoint.verify import Verification
from flagdeploy.records.sizes import readable

# Files that describe the quantization that is being removed.
QUANTIZATION_FILES = {"hf_quant_config.json", "quant_cfg.json", "quantize_config.json"}


class PlannedJobs(Protocol):
    """The jobs of a plan, by the name of the shard; `converted` tensors of the source change,
    `copied` ones do not."""

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def weight_map(self) -> Mapping[str, str]: ...
    @property
    def converted(self) -> int: ...
    @property
    def copied(self) -> int: ...
    @property
    def sizes(self) -> Mapping[str, tuple[int, int]]:
        """Bytes of tensors that each shard's job reads, scales aside, and writes."""
        ...

    @property
    def converted_bytes(self) -> int:
        """Bytes of the tensors of the source that change."""
        ...

    def of(self, shard: str) -> ShardJob: ...
    def file_bytes(self, shard: str) -> int:
        """The size of the output shard."""
        ...

    def needs(self, shard: str) -> int:
        """Room that the output shard takes, or a little more, told sooner than its size."""
        ...

    def __iter__(self) -> Iterator[ShardJob]: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True)
class ConversionPlan:
    """Everything a conversion will do; sizes in bytes.

    `identity` tells this conversion of this source from any other, `side_files` are copied and
    `left_out` are not; `written` are JSON files by name besides index and config.json, and
    `config_note` says what the latter becomes.
    """

    source: Path
    source_format: Format
    to: str
    jobs: PlannedJobs
    config: Mapping[str, Any]
    side_files: tuple[str, ...]
    left_out: tuple[str, ...]
    identity: Mapping[str, Any]
    config_note: str
    verb: str = "dequantized"
    written: Mapping[str, Any] = field(default_factory=dict)

    @property
    def weight_map(self) -> Mapping[str, str]:
        return self.jobs.weight_map

    @cached_property
    def source_bytes(self) -> int:
        return sum(read for read, _ in self.jobs.sizes.values())

    @cached_property
    def data_bytes(self) -> int:
        """Bytes of the tensors of the output."""
        return sum(written for _, written in self.jobs.sizes.values())

    @cached_property
    def output_sizes(self) -> Mapping[str, int]:
        """The size of each output shard."""
        return {name: self.jobs.file_bytes(name) for name in self.jobs.names}

    @property
    def output_bytes(self) -> int:
        return sum(self.output_sizes.values())

    def __str__(self) -> str:
        lines = [
            f"dequant {self.source}: {self.source_format} -> {self.to}",
            f"  {len(self.jobs)} shard(s): {self.jobs.converted} tensors {self.verb}, "
            f"{self.jobs.copied} copied",
            f"  {readable(self.source_bytes)} read, {readable(self.output_bytes)} written",
            f"  config.json: {self.config_note}",
            f"  copied: {', '.join(self.side_files) or 'nothing'}",
        ]
        if self.left_out:
            lines.append(f"  left out: {', '.join(self.left_out)}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON data, one entry per shard."""
        return {
            "source": str(self.source),
            "source_format": self.source_format.name,
            "to": self.to,
            "shards": dict(self.output_sizes),
            "tensors": len(self.weight_map),
            "converted": self.jobs.converted,
            "source_bytes": self.source_bytes,
            "output_bytes": self.output_bytes,
            "side_files": list(self.side_files),
            "left_out": list(self.left_out),
        }


def split_files(
    checkpoint: Verification, files: Mapping[str, int]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the files to copy as they are, and of those that have no place in the output."""
    written = {INDEX, RECORD, "config.json", *checkpoint.index.shards}
    others = [name for name in sorted(files) if name not in written]
    left = [n for n in others if n in QUANTIZATION_FILES or is_weight(n)]
    return tuple(name for name in others if name not in left), tuple(left)


def identity_of(
    checkpoint: Verification,
    files: Mapping[str, int],
    options: Sequence[Any],
    config: Mapping[str, Any],
) -> dict[str, Any]:
    """The output follows from the source's headers and data, the options (the target first) and
    the config."""
    digest = hashlib.sha256(json.dumps([*options, config], sort_keys=True).encode())
    for shard, header in sorted(checkpoint.headers.items()):
        digest.update(f"{shard} {header.file_bytes} {files[shard]} {header.sha256}\n".encode())
    return {"kind": "dequant", "to": options[0], "work": digest.hexdigest()}
