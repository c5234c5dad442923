"""In which order a checkpoint is converted in its own place, and how much disk that takes."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One output shard, and the source shards that nothing needs once it is finished."""

    shard: str
    frees: tuple[str, ...]


@dataclass(frozen=True)
class Space:
    """Bytes taken beyond those of now: at most while it runs, and at the end (less is negative)."""

    peak: int
    end: int


def stages(reads: Mapping[str, Collection[str]], sources: Collection[str]) -> tuple[Stage, ...]:
    """`reads` are the source shards that each output shard is made of, in the order of writing.

    A scale may lie in another shard than its weight, and one output may need many sources: a
    source is freed after the last output that reads it; one that no output reads, after the first.
    """
    last = dict.fromkeys(sources, next(iter(reads)))
    for shard, files in reads.items():
        last.update(dict.fromkeys(files, shard))
    return tuple(
        Stage(shard, tuple(sorted(name for name in last if last[name] == shard))) for shard in reads
    )


def space(order: Sequence[Stage], needed: Mapping[str, int], occupied: Mapping[str, int]) -> Space:
    """The disk space of what is left to do: `needed` by output shards that are not finished,
    `occupied` by source shards that are still there."""
    used = peak = 0
    for stage in order:
        used += needed.get(stage.shard, 0)
        peak = max(peak, used)
        used -= sum(occupied.get(name, 0) for name in stage.frees)
    return Space(peak, used)
