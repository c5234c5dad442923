"""From recipes to shards in which every byte has its place."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flagdeploy.checkpoint.formats import Format
from flagdeploy.checkpoint.jobs import ShardJob, Work
from flagdeploy.checkpoint.safetensors_file import Tensor, header_bytes
from flagdeploy.checkpoint.verify import Verification
from flagdeploy.plans.conversion_plan import ConversionPlan, identity_of, split_files
from flagdeploy.plans.recipes import Cook, Recipe


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
        jobs=MadeJobs(checkpoint, shards, cook),
        config=config,
        side_files=side_files,
        left_out=left_out,
        identity=identity_of(checkpoint, files, [to, *options], config),
        **details,
    )


class MadeJobs:
    """The PlannedJobs of every plan made of recipes, each made when it is asked for.

    `shards` are the names of source tensors by output shard, `cook` what becomes of one. Recipes
    are made anew whenever they are needed: all at once would take 150 MB at the size of
    DeepSeek-R1, and their work, which says where every byte goes, as much again.
    """

    def __init__(
        self, checkpoint: Verification, shards: Mapping[str, Sequence[str]], cook: Cook
    ) -> None:
        self._checkpoint, self._shards, self._cook = checkpoint, shards, cook
        self.weight_map: dict[str, str] = {}
        self.sizes: dict[str, tuple[int, int]] = {}
        self._file_bytes: dict[str, int] = {}
        self.copied = self.converted = self.converted_bytes = 0
        for shard in sorted(shards):
            self._measure(shard)
        self.names = tuple(self.sizes)

    def _measure(self, shard: str) -> None:
        read = 0
        outputs: dict[str, tuple[str, tuple[int, ...]]] = {}
        for name in self._shards[shard]:
            tensor, recipes = self._stored(name), self._cook(name)
            for recipe in recipes:
                outputs.update(recipe.outputs)
            if tensor and recipes:
                read += tensor.nbytes
                same = (tensor.dtype, tensor.shape) in recipes[0].outputs.values()
                self.copied += same
                self.converted += not same
                self.converted_bytes += 0 if same else tensor.nbytes
        if outputs:
            _, laid = header_bytes(outputs)
            self.weight_map.update(dict.fromkeys(outputs, shard))
            self.sizes[shard] = read, laid.data_bytes
            self._file_bytes[shard] = laid.file_bytes

    def _stored(self, name: str) -> Tensor | None:
        """The tensor of the source of this name; what a plan adds has none."""
        home = self._checkpoint.index.weight_map.get(name)
        return self._checkpoint.headers[home].tensors[name] if home else None

    def _recipes(self, shard: str) -> Iterator[Recipe]:
        return (recipe for name in self._shards[shard] for recipe in self._cook(name))

    def of(self, shard: str) -> ShardJob:
        """The job for the output shard of this name."""
        outputs = {n: kind for recipe in self._recipes(shard) for n, kind in recipe.outputs.items()}
        head, laid = header_bytes(outputs)
        at = {name: laid.data_start + tensor.begin for name, tensor in laid.tensors.items()}
        work: list[Work] = []
        constants: list[tuple[int, bytes]] = []
        for recipe in self._recipes(shard):
            made = recipe.make(at)
            if isinstance(made, bytes):
                constants.append((at[next(iter(recipe.outputs))], made))
            else:
                work.append(made)
        return ShardJob(shard, head, tuple(work), laid.file_bytes, tuple(constants))

    def file_bytes(self, shard: str) -> int:
        return self._file_bytes[shard]

    def needs(self, shard: str) -> int:
        return self._file_bytes[shard]

    def __iter__(self) -> Iterator[ShardJob]:
        return map(self.of, self.names)

    def __len__(self) -> int:
        return len(self.names)
