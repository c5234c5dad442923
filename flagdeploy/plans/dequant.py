"""Plan a dequantization: what each output shard is made of, before a byte is read or written.

Facts of the layout: DeepSeek-V3 README_WEIGHTS.md and inference/fp8_cast_bf16.py. A weight's scale
(``X.weight_scale_inv``, a multiplier despite its name) may lie in another shard than the weight.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flagdeploy.checkpoint.folder import is_weight
from flagdeploy.checkpoint.formats import SCALE, SCALE_DTYPES, Format, recognise
from flagdeploy.checkpoint.fp8 import TARGETS
from flagdeploy.checkpoint.index import INDEX
from flagdeploy.checkpoint.jobs import Copy, Dequantize, Extent, ShardJob
from flagdeploy.checkpoint.ownership import RECORD
from flagdeploy.checkpoint.safetensors_file import Header, Tensor, header_bytes
from flagdeploy.checkpoint.verify import Verification
from flagdeploy.errors import CheckpointError
from flagdeploy.records.sizes import readable

TORCH_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
# Files that describe the quantization that is being removed.
_QUANTIZATION_FILES = {"hf_quant_config.json", "quant_cfg.json", "quantize_config.json"}
LAYER = re.compile(r"model\.layers\.(\d+)\.")
_SHOWN = 10


@dataclass(frozen=True)
class DequantPlan:
    """Everything a dequantization will do; sizes in bytes.

    `identity` tells this conversion of this source from any other, `data_bytes` counts the tensors
    of the output, `side_files` are copied and `left_out` are not; `written` are JSON files by name
    besides index and config.json, and `config_note` says what the latter becomes.
    """

    source: Path
    source_format: Format
    to: str
    jobs: tuple[ShardJob, ...]
    weight_map: Mapping[str, str]
    data_bytes: int
    config: Mapping[str, Any]
    side_files: tuple[str, ...]
    left_out: tuple[str, ...]
    identity: Mapping[str, Any]
    config_note: str
    verb: str = "dequantized"
    written: Mapping[str, Any] = field(default_factory=dict)

    @property
    def converted(self) -> int:
        """Tensors of the source that are not copied as they are."""
        return sum(not isinstance(item, Copy) for job in self.jobs for item in job.work)

    @property
    def copied(self) -> int:
        return sum(isinstance(item, Copy) for job in self.jobs for item in job.work)

    @property
    def source_bytes(self) -> int:
        return sum(item.source.nbytes for job in self.jobs for item in job.work)

    @property
    def output_bytes(self) -> int:
        return sum(job.nbytes for job in self.jobs)

    def __str__(self) -> str:
        lines = [
            f"dequant {self.source}: {self.source_format} -> {self.to}",
            f"  {len(self.jobs)} shard(s): {self.converted} tensors {self.verb}, "
            f"{self.copied} copied",
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
            "shards": {job.name: job.nbytes for job in self.jobs},
            "tensors": len(self.weight_map),
            "converted": self.converted,
            "source_bytes": self.source_bytes,
            "output_bytes": self.output_bytes,
            "side_files": list(self.side_files),
            "left_out": list(self.left_out),
        }


def plan_dequant(
    checkpoint: Verification,
    files: Mapping[str, int],
    to: str,
    *,
    drop_mtp: bool = False,
) -> DequantPlan:
    """Plan the conversion of a whole checkpoint whose files were last changed at ``{name: ns}``.

    Raises CheckpointError when the format cannot be converted, or naming every FP8 tensor without
    a fitting scale and every scale without its tensor.
    """
    tensors = {
        name: tensor
        for header in checkpoint.headers.values()
        for name, tensor in header.tensors.items()
    }
    found = recognise(checkpoint.config, tensors)
    block = _require_fp8_block(checkpoint, found, to)
    check_pairs(checkpoint, tensors, block)
    kept = without_mtp(checkpoint, tensors) if drop_mtp else tensors
    jobs = tuple(
        job
        for shard, header in sorted(checkpoint.headers.items())
        if (job := _shard_job(shard, header, checkpoint, kept, block, to))
    )
    side_files, left_out = split_files(checkpoint, files)
    config = plain_config(checkpoint.config, to, drop_mtp)
    return DequantPlan(
        source=checkpoint.index.folder,
        source_format=found,
        to=to,
        jobs=jobs,
        weight_map={item.name: job.name for job in jobs for item in job.work},
        data_bytes=sum(job.nbytes - len(job.head) for job in jobs),
        config=config,
        side_files=side_files,
        left_out=left_out,
        identity=identity_of(checkpoint, files, jobs, to, config),
        config_note=plain_note(to),
    )


def _require_fp8_block(checkpoint: Verification, found: Format, to: str) -> tuple[int, int]:
    folder = checkpoint.index.folder
    if found.plain:
        raise CheckpointError(
            f"{folder}: is already in plain {found}: there is nothing to dequantize",
            "serve it as it is; engines cast between BF16, FP16 and FP32 while loading",
        )
    if found.block is None:
        raise CheckpointError(
            f"{folder}: is in {found}, which cannot be converted to {to}",
            "dequant reads FP8 e4m3 in scaled blocks (DeepSeek V3, R1, V3.1, V3.2)",
        )
    return found.block


def check_pairs(
    checkpoint: Verification, tensors: Mapping[str, Tensor], block: tuple[int, int]
) -> None:
    problems = []
    for name, tensor in tensors.items():
        shard = checkpoint.index.weight_map[name]
        if tensor.dtype == "F8_E4M3":
            problem = _scale_problem(tensor, tensors.get(name + SCALE), block)
        elif name.endswith(SCALE):
            weight = tensors.get(name.removesuffix(SCALE))
            problem = None
            if weight is None or weight.dtype != "F8_E4M3":
                problem = "is a scale without its FP8 tensor"
        else:
            continue
        if problem:
            problems.append(f"{shard}: {name}: {problem}")
    if problems:
        more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        lines = "\n  ".join(problems[:_SHOWN] + more)
        raise CheckpointError(
            f"{checkpoint.index.folder}: tensors and scales do not match:\n  {lines}",
            "the checkpoint is incomplete or of another layout; flagdeploy pull fetches it again",
        )


def _scale_problem(tensor: Tensor, scale: Tensor | None, block: tuple[int, int]) -> str | None:
    if len(tensor.shape) != 2:
        return f"is FP8 of shape {list(tensor.shape)}; only matrices can be dequantized"
    if scale is None:
        return f"its scale {tensor.name}{SCALE} is in no shard"
    if scale.dtype not in SCALE_DTYPES:
        return f"its scale has the dtype {scale.dtype}, not one of {', '.join(SCALE_DTYPES)}"
    expected = tuple(-(-size // step) for size, step in zip(tensor.shape, block, strict=True))
    if scale.shape != expected:
        return (
            f"its scale has the shape {list(scale.shape)}; "
            f"{list(tensor.shape)} in blocks of {list(block)} needs {list(expected)}"
        )
    return None


def hidden_layers(checkpoint: Verification) -> int:
    """How many layers the model has besides those of multi-token prediction."""
    layers = checkpoint.config.get("num_hidden_layers")
    if type(layers) is not int or layers < 1:
        raise CheckpointError(
            f"{checkpoint.index.folder}/config.json: num_hidden_layers is not a number: "
            "cannot tell which layers are MTP"
        )
    return layers


def without_mtp(checkpoint: Verification, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without the multi-token prediction layers, which follow the last hidden layer."""
    layers = hidden_layers(checkpoint)
    return {
        name: tensor
        for name, tensor in tensors.items()
        if not ((layer := LAYER.match(name)) and int(layer[1]) >= layers)
    }


def _shard_job(
    shard: str,
    header: Header,
    checkpoint: Verification,
    kept: Mapping[str, Tensor],
    block: tuple[int, int],
    to: str,
) -> ShardJob | None:
    """The job for the output shard of the same name; None when nothing is left of it."""
    sources = {
        name: tensor
        for name, tensor in header.tensors.items()
        if name in kept and not name.endswith(SCALE)
    }
    if not sources:
        return None
    head, laid = header_bytes(
        {
            name: (TARGETS[to] if tensor.dtype == "F8_E4M3" else tensor.dtype, tensor.shape)
            for name, tensor in sources.items()
        }
    )

    def extent(name: str) -> Extent:
        file = checkpoint.index.weight_map[name]
        tensor = checkpoint.headers[file].tensors[name]
        return Extent(file, checkpoint.headers[file].data_start + tensor.begin, tensor.nbytes)

    def work(target: Tensor) -> Copy | Dequantize:
        name, at = target.name, laid.data_start + target.begin
        if sources[name].dtype != "F8_E4M3":
            return Copy(name, extent(name), at)
        rows, columns = target.shape
        dtype = kept[name + SCALE].dtype
        scale = extent(name + SCALE)
        return Dequantize(name, extent(name), scale, dtype, (rows, columns), block, to, at)

    items = tuple(work(target) for target in laid.tensors.values())
    return ShardJob(shard, head, items, laid.file_bytes)


def plain_note(to: str) -> str:
    """One line about what `plain_config` does."""
    return f"{TORCH_DTYPES[to]}, without quantization_config"


def plain_config(config: Mapping[str, Any], to: str, drop_mtp: bool) -> dict[str, Any]:
    """The config.json of weights without quantization."""
    edited = {key: value for key, value in config.items() if key != "quantization_config"}
    # Transformers 5 renamed torch_dtype to dtype and reads both.
    edited["dtype" if "dtype" in edited else "torch_dtype"] = TORCH_DTYPES[to]
    if "dtype" in edited and "torch_dtype" in edited:
        edited["torch_dtype"] = TORCH_DTYPES[to]
    if drop_mtp:
        edited["num_nextn_predict_layers"] = 0
    return edited


def split_files(
    checkpoint: Verification, files: Mapping[str, int]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the files to copy as they are, and of those that have no place in the output."""
    written = {INDEX, RECORD, "config.json", *checkpoint.index.shards}
    others = [name for name in sorted(files) if name not in written]
    left = [n for n in others if n in _QUANTIZATION_FILES or is_weight(n)]
    return tuple(name for name in others if name not in left), tuple(left)


def identity_of(
    checkpoint: Verification,
    files: Mapping[str, int],
    jobs: tuple[ShardJob, ...],
    to: str,
    config: Mapping[str, Any],
) -> dict[str, Any]:
    digest = hashlib.sha256(json.dumps([to, config], sort_keys=True).encode())
    for shard, header in sorted(checkpoint.headers.items()):
        digest.update(f"{shard} {header.file_bytes} {files[shard]}\n".encode())
    for job in jobs:
        digest.update(job.head)
        for _, content in job.constants:
            digest.update(content)
    return {"kind": "dequant", "to": to, "work": digest.hexdigest()}
