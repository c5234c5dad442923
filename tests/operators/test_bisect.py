"""Any set of culprits, alone or together, is found, and never in more trials than stated."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from flagdeploy.operators.bisect import Culprit, Group, most_trials, search

NAMES = [f"op{index}" for index in range(24)]


class Library:
    """Fails with any of `causes`, sets of operators that fail when all of one are on."""

    def __init__(self, *causes: Sequence[str]) -> None:
        self.causes = [frozenset(cause) for cause in causes]
        self.tried: list[Group] = []

    def passes(self, group: Group) -> bool:
        return not any(cause <= group for cause in self.causes)

    def __call__(self, groups: Sequence[Group]) -> list[bool]:
        self.tried += groups
        return [self.passes(group) for group in groups]


names = st.integers(1, len(NAMES)).map(lambda count: NAMES[:count])


@st.composite
def libraries(draw: st.DrawFn) -> tuple[list[str], Library]:
    members = draw(names)
    cause = st.sets(st.sampled_from(members), min_size=1, max_size=3).map(sorted)
    return members, Library(*draw(st.lists(cause, max_size=4)))


@given(libraries(), st.integers(1, 8), st.integers(0, 24))
def test_what_is_left_passes_and_every_culprit_is_one(
    case: tuple[list[str], Library], width: int, cut: int
) -> None:
    members, library = case
    found = search([members[:cut], members[cut:]], library, width=width)
    assert library.passes(found.passing)
    assert found.passing | set(found.excluded) == set(members)
    for culprit in found.culprits:
        assert not library.passes(frozenset(culprit.operators))
        assert culprit.excluded in culprit.operators
        for name in culprit.operators:  # each of them is needed
            assert library.passes(frozenset(culprit.operators) - {name})


@given(libraries(), st.integers(1, 8))
def test_nothing_is_left_out_without_need(case: tuple[list[str], Library], width: int) -> None:
    members, library = case
    found = search([members], library, width=width)
    for culprit in found.culprits:
        assert not library.passes(found.passing | set(culprit.operators))


@given(libraries(), st.integers(1, 8))
def test_trials_are_bounded_and_none_is_made_twice(
    case: tuple[list[str], Library], width: int
) -> None:
    members, library = case
    found = search([members], library, width=width)
    together = [culprit for culprit in found.culprits if len(culprit.operators) > 1]
    assert len(library.tried) == len(set(library.tried)) == found.splits + found.reductions
    assert found.splits <= 2 * len(members)
    assert len(library.tried) <= most_trials(len(members), len(together))


@given(st.sets(st.sampled_from(NAMES), max_size=6), st.integers(1, 8))
def test_culprits_that_fail_alone_are_all_and_only_found(culprits: set[str], width: int) -> None:
    found = search([NAMES], Library(*([name] for name in culprits)), width=width)
    assert set(found.excluded) == culprits
    assert found.reductions <= 1  # that the rest passes


@given(st.frozensets(st.sampled_from(NAMES)).flatmap(lambda _: st.randoms(use_true_random=False)))
def test_an_erratic_library_ends_with_a_set_that_passed(dice: object) -> None:
    """Failures that are not monotone: every set answers at random, but always the same."""
    answers: dict[Group, bool] = {}

    def oracle(groups: Sequence[Group]) -> list[bool]:
        return [answers.setdefault(one, dice.random() < 0.5) for one in groups]  # type: ignore[attr-defined]

    found = search([NAMES[:10]], oracle, width=3)
    assert not found.passing or answers[found.passing]


def test_one_failure_that_does_not_come_again_convicts_nobody() -> None:
    tried: list[Group] = []

    def again(group: Group) -> bool:
        tried.append(group)
        return True

    members = [f"op{index}" for index in range(400)]
    library = Library()
    failures = iter([False])

    def oracle(groups: Sequence[Group]) -> list[bool]:
        return [next(failures, passed) for passed in library(groups)]

    found = search([members], oracle, again=again)
    assert found.culprits == ()
    assert found.passing == frozenset(members)
    assert tried == [frozenset(members)]
    assert len(library.tried) == 3  # all, and its halves


def test_few_trials_for_one_culprit_among_many() -> None:
    library = Library(["op400"])
    found = search([[f"op{index}" for index in range(512)]], library)
    assert found.culprits == (Culprit(("op400",), "op400"),)
    assert len(library.tried) == 1 + 2 * 9 + 1  # all, two halves nine times, the rest


def test_a_pair_costs_one_of_its_members() -> None:
    found = search([NAMES], Library(["op3", "op17"]), width=4)
    assert found.culprits == (Culprit(("op3", "op17"), "op17"),)
