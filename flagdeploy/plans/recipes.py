"""What becomes of each tensor of a source: "this tensor becomes those"."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from flagdeploy.checkpoint.formats import SCALE
from flagdeploy.checkpoint.jobs import Copy, Dequantize, Extent, Work
from flagdeploy.checkpoint.safetensors_file import Tensor
from flagdeploy.checkpoint.verify import Verification

# Tensors of an output by name: dtype and shape.
Outputs = Mapping[str, tuple[str, tuple[int, ...]]]


class Recipe(NamedTuple):
    """How `outputs` come about: `make` gets their places in the file and returns the work.

    Bytes instead of work are a tensor known beforehand (and then the only one).
    """

    outputs: Outputs
    make: Callable[[Mapping[str, int]], Work | bytes]


# What becomes of a tensor of the source: nothing, one or several of the output.
Cook = Callable[[str], Sequence[Recipe]]


class Source:
    """The tensors of a checkpoint and where they lie."""

    def __init__(self, checkpoint: Verification, tensors: Mapping[str, Tensor]) -> None:
        self.checkpoint = checkpoint
        self.tensors = tensors

    def extent(self, name: str) -> Extent:
        """Where a tensor's bytes are."""
        file = self.checkpoint.index.weight_map[name]
        header = self.checkpoint.headers[file]
        tensor = header.tensors[name]
        return Extent(file, header.data_start + tensor.begin, tensor.nbytes)

    def copied(self, name: str, renamed: str | None = None) -> Recipe:
        """A tensor as it is."""
        tensor, target = self.tensors[name], renamed or name
        outputs = {target: (tensor.dtype, tensor.shape)}
        return Recipe(outputs, lambda at: Copy(target, self.extent(name), at[target]))

    def by_shard(self) -> dict[str, list[str]]:
        """The tensors' names by the shard they lie in, which keeps its name."""
        shards: dict[str, list[str]] = {}
        for name in self.tensors:
            shards.setdefault(self.checkpoint.index.weight_map[name], []).append(name)
        return shards

    def values(self, name: str, block: tuple[int, int] | None, at: int = 0) -> Copy | Dequantize:
        """A matrix as BF16: dequantized when it is FP8, else as it is."""
        tensor = self.tensors[name]
        if tensor.dtype != "F8_E4M3" or block is None:
            return Copy(name, self.extent(name), at)
        return self.dequantize(name, block, "bf16", at)

    def dequantize(self, name: str, block: tuple[int, int], to: str, at: int) -> Dequantize:
        """An FP8 matrix times its scales."""
        scale = name + SCALE
        where = self.extent(scale)
        dtype = self.checkpoint.headers[where.file].tensors[scale].dtype
        rows, columns = self.tensors[name].shape
        return Dequantize(name, self.extent(name), where, dtype, (rows, columns), block, to, at)


def constant(name: str, dtype: str, shape: tuple[int, ...], content: bytes) -> Recipe:
    """A tensor that is known beforehand."""
    return Recipe({name: (dtype, shape)}, lambda at: content)


def all_tensors(checkpoint: Verification) -> dict[str, Tensor]:
    """The tensors of all shards by name."""
    return {
        name: tensor
        for header in checkpoint.headers.values()
        for name, tensor in header.tensors.items()
    }
