"""Plan a dequantization: what each output shard is made of, before a byte is read or written.

Facts of the layout: DeepSeek-V3 README_WEIGHTS.md and inference/fp8_cast_bf16.py. A weight's scale
(``X.weight_scale_inv``, a multiplier despite its name) may lie in another shard than the weight.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, overload

from flagdeploy.checkpoint.folder import is_weight
from flagdeploy.checkpoint.formats import SCALE, SCALE_DTYPES, Format, recognise
from flagdeploy.checkpoint.fp8 import TARGETS, itemsize
from flagdeploy.checkpoint.index import INDEX
from flagdeploy.checkpoint.jobs import Copy, Dequantize, Extent, ShardJob
from flagdeploy.checkpoint.ownership import RECORD
from flagdeploy.checkpoint.safetensors_file import Header, Tensor, header_bytes
from flagdeploy.checkpoint.verify import Verification
from flagdeploy.errors import CheckpointError
from flagdeploy.plans.conversion_plan import ConversionPlan

TORCH_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
# Files that describe the quantization that is being removed.
QUANTIZATION_FILES = {"hf_quant_config.json", "quant_cfg.json", "quantize_config.json"}
LAYER = re.compile(r"model\.layers\.(\d+)\.")
_SHOWN = 10


class Jobs(Sequence[ShardJob]):
    """The jobs of a plan, each made when it is asked for: all at once they take 50 MB at the size
    of DeepSeek-R1, and the time until the first byte is written.

    `kept` are the tensors by name, scales included; a shard of which nothing is left has no job.
    """

    def __init__(
        self,
        checkpoint: Verification,
        kept: Mapping[str, Tensor],
        block: tuple[int, int],
        to: str,
    ) -> None:
        self.checkpoint, self.kept, self.block, self.to = checkpoint, kept, block, to
        home = checkpoint.index.weight_map
        self.weight_map = {name: home[name] for name in kept if not name.endswith(SCALE)}
        self.names = tuple(sorted(set(self.weight_map.values())))

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> ShardJob: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[ShardJob, ...]: ...
    def __getitem__(self, index: int | slice) -> ShardJob | tuple[ShardJob, ...]:
        if isinstance(index, slice):
            return tuple(map(self.of, self.names[index]))
        return self.of(self.names[index])

    def of(self, shard: str) -> ShardJob:
        """The job for the output shard of this name."""
        sources = {
            name: tensor
            for name, tensor in self.checkpoint.headers[shard].tensors.items()
            if name in self.weight_map
        }
        head, laid = header_bytes(
            {name: (self._dtype(tensor), tensor.shape) for name, tensor in sources.items()}
        )
        items = tuple(self._work(target, laid) for target in laid.tensors.values())
        return ShardJob(shard, head, items, laid.file_bytes)

    @cached_property
    def converted(self) -> int:
        return Counter(self.kept[name].dtype for name in self.weight_map)["F8_E4M3"]

    @property
    def copied(self) -> int:
        return len(self.weight_map) - self.converted

    @cached_property
    def sizes(self) -> Mapping[str, tuple[int, int]]:
        """Bytes of tensors that each shard's job reads, scales aside, and writes."""
        wider = itemsize(self.to)
        sizes = {}
        for shard in self.names:
            tensors = self.checkpoint.headers[shard].tensors
            kept = [tensor for name, tensor in tensors.items() if name in self.weight_map]
            fp8 = sum(t.end - t.begin for t in kept if t.dtype == "F8_E4M3")
            copied = sum(t.end - t.begin for t in kept) - fp8
            sizes[shard] = fp8 + copied, fp8 * wider + copied
        return sizes

    def needs(self, shard: str) -> int:
        """Room that the output shard takes, a little above its size: the header of the output is
        no longer than that of the source but for a digit per offset."""
        header = self.checkpoint.headers[shard]
        return self.sizes[shard][1] + header.data_start + 4 * len(header.tensors) + 64

    def _dtype(self, tensor: Tensor) -> str:
        return TARGETS[self.to] if tensor.dtype == "F8_E4M3" else tensor.dtype

    def _extent(self, name: str) -> Extent:
        file = self.checkpoint.index.weight_map[name]
        tensor = self.kept[name]
        start = self.checkpoint.headers[file].data_start
        return Extent(file, start + tensor.begin, tensor.nbytes)

    def _work(self, target: Tensor, laid: Header) -> Copy | Dequantize:
        name, at = target.name, laid.data_start + target.begin
        if self.kept[name].dtype != "F8_E4M3":
            return Copy(name, self._extent(name), at)
        rows, columns = target.shape
        dtype, scale = self.kept[name + SCALE].dtype, self._extent(name + SCALE)
        weight = self._extent(name)
        return Dequantize(name, weight, scale, dtype, (rows, columns), self.block, self.to, at)


def plan_dequant(
    checkpoint: Verification,
    files: Mapping[str, int],
    to: str,
    *,
    drop_mtp: bool = False,
) -> ConversionPlan:
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
    jobs = Jobs(checkpoint, kept, block, to)
    side_files, left_out = split_files(checkpoint, files)
    config = plain_config(checkpoint.config, to, drop_mtp)
    return ConversionPlan(
        source=checkpoint.index.folder,
        source_format=found,
        to=to,
        jobs=jobs,
        config=config,
        side_files=side_files,
        left_out=left_out,
        identity=identity_of(checkpoint, files, [to, drop_mtp], config),
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
            "dequant reads FP8 e4m3 in scaled blocks (DeepSeek V3, R1, V3.1, V3.2), MXFP4, W4AFP8",
        )
    return found.block


def check_pairs(
    checkpoint: Verification, tensors: Mapping[str, Tensor], block: tuple[int, int]
) -> None:
    """Raise CheckpointError naming FP8 tensors without a fitting scale and scales without one."""
    problems = [
        f"{shard}: {name}: {what}"
        for shard, name, what in pair_problems(checkpoint, tensors, block)
    ]
    if problems:
        more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        lines = "\n  ".join(problems[:_SHOWN] + more)
        raise CheckpointError(
            f"{checkpoint.index.folder}: tensors and scales do not match:\n  {lines}",
            "the checkpoint is incomplete or of another layout; flagdeploy pull fetches it again",
        )


def pair_problems(
    checkpoint: Verification, tensors: Mapping[str, Tensor], block: tuple[int, int]
) -> list[tuple[str, str, str]]:
    """(shard, tensor, what) for each FP8 tensor without a fitting scale, and scale without one."""
    weights = [tensor for tensor in tensors.values() if tensor.dtype == "F8_E4M3"]
    scales = [tensors.get(tensor.name + SCALE) for tensor in weights]
    # 45,000 pairs have some ten shapes; one scale more than weights is one without its weight.
    pairs = zip(weights, scales, strict=True)
    shapes = {(w.shape, s and (s.dtype, s.shape)): (w, s) for w, s in pairs}
    fit = not any(_scale_problem(*pair, block) for pair in shapes.values())
    if fit and sum(name.endswith(SCALE) for name in tensors) == len(weights):
        return []
    problems = []
    for name, tensor in tensors.items():
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
            problems.append((checkpoint.index.weight_map[name], name, problem))
    return problems


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
