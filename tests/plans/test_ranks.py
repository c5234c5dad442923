"""The shards are shared out so that every rank has about the same to do."""

from hypothesis import given
from hypothesis import strategies as st

from flagdeploy.config.rank import Rank
from flagdeploy.plans.ranks import share

SIZES = st.dictionaries(
    st.text("abc", min_size=1, max_size=6),
    st.tuples(st.integers(0, 1000), st.integers(0, 1000)),
    max_size=40,
)


@given(SIZES, st.integers(1, 9))
def test_every_shard_is_in_one_share(sizes: dict[str, tuple[int, int]], ranks: int) -> None:
    shares = [share(sizes, Rank(number, ranks)) for number in range(ranks)]
    assert sorted(name for names in shares for name in names) == sorted(sizes)
    assert all(names == tuple(sorted(names)) for names in shares)


@given(SIZES, st.integers(1, 9))
def test_shares_differ_by_one_shard_at_most(sizes: dict[str, tuple[int, int]], ranks: int) -> None:
    loads = [sum(sum(sizes[name]) for name in share(sizes, Rank(r, ranks))) for r in range(ranks)]
    assert max(loads) - min(loads) <= max(map(sum, sizes.values()), default=0)


def test_shards_as_large_as_deepseek_r1s_are_dealt_out_evenly() -> None:
    sizes = {f"{number:03d}": (4_300_000_000, 8_600_000_000) for number in range(163)}
    assert sorted(len(share(sizes, Rank(rank, 8))) for rank in range(8)) == [20] * 5 + [21] * 3
