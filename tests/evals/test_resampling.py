import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagdeploy.evals.resampling import bootstrap, sign_flip_p, skew_interval
from flagdeploy.evals.statistics import clustered_mean

VALUES = st.lists(st.floats(0, 1), min_size=3, max_size=25)


@given(VALUES, st.randoms())
def test_the_order_of_units_changes_nothing(values: list[float], rng: random.Random) -> None:
    other = values[:]
    rng.shuffle(other)
    one, two = bootstrap(values), bootstrap(other)
    assert (one.low, one.high) == pytest.approx((two.low, two.high))


@given(VALUES)
def test_the_interval_holds_the_estimate_and_stays_among_the_values(values: list[float]) -> None:
    interval = bootstrap(values)
    mean = math.fsum(values) / len(values)
    assert interval.low - 1e-12 <= mean <= interval.high + 1e-12
    assert min(values) - 1e-12 <= interval.low
    assert interval.high <= max(values) + 1e-12


@given(VALUES, st.floats(0.1, 10))
def test_another_unit_of_measure_changes_nothing(values: list[float], factor: float) -> None:
    one, scaled = bootstrap(values), bootstrap([factor * value for value in values])
    assert (scaled.low, scaled.high) == pytest.approx(
        (factor * one.low, factor * one.high), abs=1e-9
    )


def test_of_symmetric_values_it_is_the_t_interval() -> None:
    rng = random.Random(0)
    values = [rng.gauss(0, 1) for _ in range(400)]
    t, drawn = clustered_mean(values).interval(0.95), bootstrap(values)
    assert (drawn.low, drawn.high) == pytest.approx((t.low, t.high), abs=0.015)


def test_a_ratio_weighs_its_units() -> None:
    # one unit of 90 tokens with no event, ten of one token with one each
    interval = bootstrap([0.0] + [1.0] * 10, [90.0] + [1.0] * 10)
    assert interval.low < 0.1 < interval.high
    assert bootstrap([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]).low == pytest.approx(0.5)


def test_one_unit_says_nothing() -> None:
    assert math.isinf(bootstrap([0.3]).high)


def test_skew_values_widen_above() -> None:
    values = [0.0] * 60 + [1.0] * 4
    t = clustered_mean(values).interval(0.9)
    joined = skew_interval(values, level=0.9)
    assert joined.low <= t.low
    assert joined.high > t.high


def test_skew_interval_covers() -> None:
    # shares of a rare event, 64 units: Student's t alone covers 90% of the time at best
    rng = random.Random(5)
    below = 0
    for _ in range(200):
        values = [rng.random() ** 8 for _ in range(64)]
        below += skew_interval(values, level=0.9).high < 1 / 9
    assert below / 200 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)


def test_sign_flips() -> None:
    assert sign_flip_p([]) == 1.0
    assert sign_flip_p([0.0, 0.0]) == 1.0
    assert sign_flip_p([0.5] * 5) == pytest.approx(2 / 32, abs=0.01)
    assert sign_flip_p([1.0, -1.0] * 20) == 1.0


@given(st.lists(st.floats(-1, 1), max_size=20))
def test_sign_flips_do_not_care_which_side_is_which(sums: list[float]) -> None:
    assert sign_flip_p(sums) == pytest.approx(sign_flip_p([-value for value in sums]))
    assert 0.0 < sign_flip_p(sums) <= 1.0
