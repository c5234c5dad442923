"""Plan a dequantization: what each output shard is made of, before a byte is read or written.

Facts of the layout: DeepSeek-V3 README_WEIGHTS.md and inference/fp8_cast_bf16.py. A weight's scale
(``X.weight_scale_inv``, a multiplier despite its name) may lie in another shard than the weight.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import overload

from flagdeploy.checkpoint.formats import SCALE, Format
from flagdeploy.checkpoint.fp8 import TARGETS, itemsize
from flagdeploy.checkpoint.jobs import Copy, Dequantize, Extent, ShardJob
from flagdeploy.checkpoint.safetensors_file import Header, Tensor, header_bytes
from flagdeploy.checkpoint.verify import Verification
from flagdeploy.errors import CheckpointError
from flagdeploy.plans.conversion_plan import ConversionPlan, identity_of, split_files
from flagdeploy.plans.mtp import without_mtp
from flagdeploy.plans.pairs import check_pairs
from flagdeploy.plans.plain_config import plain_config, plain_note
from flagdeploy.plans.recipes import all_tensors


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
    def converted_bytes(self) -> int:
        kept = (self.kept[name] for name in self.weight_map)
        return sum(tensor.nbytes for tensor in kept if tensor.dtype == "F8_E4M3")

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

    def file_bytes(self, shard: str) -> int:
        return self.of(shard).nbytes

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
    found: Format,
    to: str,
    *,
    drop_mtp: bool = False,
) -> ConversionPlan:
    """Plan the conversion of a whole checkpoint in the format `found`, whose files were last
    changed at ``{name: ns}``.

    Raises CheckpointError when the format cannot be converted, or naming every FP8 tensor without
    a fitting scale and every scale without its tensor.
    """
    tensors = all_tensors(checkpoint)
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
