import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagdeploy.evals.divergence import Parting, divergence, hazard, parting, survival
from flagdeploy.evals.teacher_forcing import Position
from flagdeploy.evals.verdict import Verdict, judged

IDS = st.lists(st.integers(0, 3), max_size=12)


def test_where_replies_part() -> None:
    assert parting("k", [1, 2, 3], [1, 2, 4]) == Parting("k", 2, True)
    assert parting("k", [1, 2, 3], [1, 2, 3]) == Parting("k", 3, False)
    # one ends by itself where the other goes on
    assert parting("k", [1, 2, 3], [1, 2]) == Parting("k", 2, True)
    # one was cut there: what would have come is unknown
    assert parting("k", [1, 2, 3], [1, 2], cut=True) == Parting("k", 2, False)


def test_the_gap_is_the_baselines_between_its_best_and_the_other_choice() -> None:
    top = [Position(0.0, {1: 0.0}), Position(-0.5, {2: -0.5, 5: -0.55, 6: -4.0})]
    near = parting("k", [1, 2], [1, 5], positions=top)
    assert near.gap == pytest.approx(0.05)
    # a token outside the top k lies at least as low as the last of them
    assert parting("k", [1, 2], [1, 9], positions=top).gap == pytest.approx(3.5)
    assert parting("k", [1, 2], [1], positions=top).gap is None


@given(IDS, IDS)
def test_it_does_not_matter_which_side_is_which(a: list[int], b: list[int]) -> None:
    assert parting("k", a, b) == parting("k", b, a)


def test_survival_by_hand() -> None:
    # Replies part at tokens 2 and 5; one is censored after 3, one after 6.
    rows = [
        Parting("a", 1, True),
        Parting("b", 3, False),
        Parting("c", 4, True),
        Parting("d", 6, False),
    ]
    assert survival(rows) == [(2, 0.75), (5, 0.375)]


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=20))
def test_survival_falls_from_one_to_no_less_than_nothing(rows: list[tuple[int, bool]]) -> None:
    values = [1.0, *(s for _, s in survival([Parting("k", *row) for row in rows])), 0.0]
    assert values == sorted(values, reverse=True)


def test_hazard() -> None:
    rows = [Parting(str(i), 99, True) for i in range(20)]
    rows += [Parting(str(i), 100, False) for i in range(20, 60)]
    rate, interval = hazard(rows)
    assert rate == pytest.approx(20 / 6000)
    assert 0 < interval.low < rate < interval.high < 0.006
    none, bound = hazard([Parting(str(i), 100, False) for i in range(30)])
    assert (none, bound.low) == (0.0, 0.0)
    assert bound.high == pytest.approx(3 / 3000, rel=0.01)  # the rule of three


def test_near_ties_are_no_alarm_and_certainties_are() -> None:
    near = [Parting(str(i), 50, True, gap=0.03) for i in range(40)]
    far = [Parting(str(i), 20 if i < 5 else 50, i < 5, gap=4.0) for i in range(64)]
    (benign,) = judged([divergence(near)])
    assert benign.verdict is Verdict.INFO
    (damage,) = judged([divergence(far, floor=0.0001)])
    assert damage.verdict is Verdict.DIFFERENT
    assert damage.sentence == (
        "5 of 64 greedy replies part from the baseline's; 0 at near ties under 0.1 nat, 5 over 1 "
        "nat"
    )
    assert damage.ratio == pytest.approx(5 / (59 * 50 + 5 * 21) / 0.0001)
    assert damage.p == pytest.approx(
        1 - sum(math.comb(64, k) * 0.01**k * 0.99 ** (64 - k) for k in range(5))
    )
