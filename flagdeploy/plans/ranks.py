"""Who converts which shard: the same answer on every rank, whatever is finished already."""

from collections.abc import Mapping

from flagdeploy.config.rank import Rank


def share(sizes: Mapping[str, tuple[int, int]], rank: Rank) -> tuple[str, ...]:
    """The shards of `rank`, sorted, out of `sizes`: bytes read and written by shard.

    Graham's rule: the largest shard first, each to the rank that has least. No rank has more than
    4/3 of what the best split gives the busiest.
    """
    loads = [0] * rank.of
    mine = []
    for shard in sorted(sizes, key=lambda name: (-sum(sizes[name]), name)):
        least = min(range(rank.of), key=loads.__getitem__)
        loads[least] += sum(sizes[shard])
        if least == rank.number:
            mine.append(shard)
    return tuple(sorted(mine))
