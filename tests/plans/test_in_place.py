"""When a source shard may go, and how much disk a conversion in place takes."""

from hypothesis import given
from hypothesis import strategies as st

from flagdeploy.plans.in_place import Space, Stage, space, stages

NAMES = st.sampled_from("abcdef")
READS = st.dictionaries(st.sampled_from("ABCDEF"), st.sets(NAMES), min_size=1)


def test_a_source_is_freed_after_the_last_that_reads_it() -> None:
    reads = {"A": {"a", "b"}, "B": {"b"}, "C": {"c", "a"}}
    assert stages(reads, "abcd") == (
        Stage("A", ("d",)),
        Stage("B", ("b",)),
        Stage("C", ("a", "c")),
    )


@given(READS)
def test_no_output_comes_after_a_source_of_its_own_was_freed(reads: dict[str, set[str]]) -> None:
    freed: set[str] = set()
    for stage in stages(reads, "abcdef"):
        assert not reads[stage.shard] & freed
        freed |= set(stage.frees)
    assert freed == set("abcdef")


def test_the_worst_moment_is_after_a_write_and_before_what_it_frees() -> None:
    order = (Stage("A", ("a",)), Stage("B", ()), Stage("C", ("b", "c")))
    sizes = dict.fromkeys("ABC", 20)
    assert space(order, sizes, dict.fromkeys("abc", 10)) == Space(peak=50, end=30)
    # Gone on with after A was finished and its source freed.
    assert space(order, {"B": 20, "C": 20}, {"b": 10, "c": 10}) == Space(peak=40, end=20)
    assert space(order, {}, {"b": 10, "c": 10}) == Space(peak=0, end=-20)
