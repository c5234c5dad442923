"""From "this tensor becomes those" to shards in which every byte has its place."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flagdeploy.checkpoint.formats import SCALE, Format
from flagdeploy.checkpoint.jobs import Copy, Dequantize, Extent, ShardJob, Work
from flagdeploy.checkpoint.safetensors_file import Tensor, header_bytes
from flagdeploy.checkpoint.verify import Verification
from flagdeploy.errors import CheckpointError
from flagdeploy.plans.conversion_plan import ConversionPlan
from flagdeploy.plans.dequant import identity_of, split_files

# Tensors of an output by name: dtype and shape.
Outputs = Mapping[str, tuple[str, tuple[int, ...]]]
_SHOWN = 10


@dataclass(frozen=True)
class Recipe:
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
        scale = name + SCALE
        rows, columns = self.tensors[name].shape
        dtype = self.checkpoint.headers[self.extent(scale).file].tensors[scale].dtype
        where = self.extent(scale)
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


def assemble(
    checkpoint: Verification,
    files: Mapping[str, int],
    found: Format,
    to: str,
    shards: Mapping[str, Sequence[str]],
    cook: Cook,
    config: Mapping[str, Any],
    options: Sequence[Any] = (),
    **details: Any,
) -> ConversionPlan:
    """The plan that writes `shards` (names of source tensors by output shard) of what `cook` makes
    of each tensor; `options` are what else the output depends on, `details` further fields of
    ConversionPlan."""
    side_files, left_out = split_files(checkpoint, files)
    return ConversionPlan(
        source=checkpoint.index.folder,
        source_format=found,
        to=to,
        jobs=MadeJobs(shards, cook),
        config=config,
        side_files=side_files,
        left_out=left_out,
        identity=identity_of(checkpoint, files, [to, *options], config),
        **details,
    )


class MadeJobs:
    """The PlannedJobs of every plan made of recipes, each made again when it is asked for.

    `shards` are the names of source tensors by output shard, `cook` what becomes of one; all jobs
    and recipes at once would take 150 MB at the size of DeepSeek-R1.
    """

    def __init__(self, shards: Mapping[str, Sequence[str]], cook: Cook) -> None:
        self._shards, self._cook = shards, cook
        self.weight_map: dict[str, str] = {}
        self.sizes: dict[str, tuple[int, int]] = {}
        self._needs: dict[str, int] = {}
        self.copied = self.converted = 0
        for shard in sorted(shards):
            recipes = self._recipes(shard)
            if not recipes:
                continue
            job = _job(shard, recipes)
            self.weight_map |= {name: shard for recipe in recipes for name in recipe.outputs}
            read = sum(item.source.nbytes for item in job.work)
            self.sizes[shard] = read, job.nbytes - len(job.head)
            self._needs[shard] = job.nbytes
            copied = sum(isinstance(item, Copy) for item in job.work)
            self.copied += copied
            self.converted += len(job.work) - copied
        self.names = tuple(self.sizes)

    def of(self, shard: str) -> ShardJob:
        return _job(shard, self._recipes(shard))

    def _recipes(self, shard: str) -> list[Recipe]:
        return [recipe for name in self._shards[shard] for recipe in self._cook(name)]

    def needs(self, shard: str) -> int:
        return self._needs[shard]

    def __iter__(self) -> Iterator[ShardJob]:
        return map(self.of, self.names)

    def __len__(self) -> int:
        return len(self.names)


def _job(shard: str, recipes: Sequence[Recipe]) -> ShardJob:
    outputs = {name: kind for recipe in recipes for name, kind in recipe.outputs.items()}
    head, laid = header_bytes(outputs)
    at = {name: laid.data_start + tensor.begin for name, tensor in laid.tensors.items()}
    made = [(recipe, recipe.make(at)) for recipe in recipes]
    work = tuple(item for _, item in made if not isinstance(item, bytes))
    constants = tuple(
        (at[next(iter(recipe.outputs))], item) for recipe, item in made if isinstance(item, bytes)
    )
    return ShardJob(shard, head, work, laid.file_bytes, constants)


def refuse_all(checkpoint: Verification, what: str, problems: Sequence[str], hint: str) -> None:
    """Raise CheckpointError with the first ten of `problems`, if there are any."""
    if problems:
        more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        lines = "\n  ".join([*problems[:_SHOWN], *more])
        raise CheckpointError(f"{checkpoint.index.folder}: {what}:\n  {lines}", hint)
