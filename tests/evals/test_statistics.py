"""Check values: figures worked out independently, from the papers named in the module."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagdeploy.evals import statistics as s


def points(interval: s.Interval) -> tuple[float, float]:
    return round(100 * interval.low, 2), round(100 * interval.high, 2)


@pytest.mark.parametrize(
    ("better", "worse", "n", "interval"),
    [
        (0, 0, 30, (-11.35, 11.35)),
        (12, 20, 1319, (-1.52, 0.25)),
        (14, 8, 198, (-1.74, 8.08)),
    ],
)
def test_tango_interval(better: int, worse: int, n: int, interval: tuple[float, float]) -> None:
    assert points(s.tango(better, worse, n)) == interval


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 400))
def test_tango_interval_is_antisymmetric_and_holds_the_estimate(
    better: int, worse: int, same: int
) -> None:
    n = better + worse + same + 1
    one, other = s.tango(better, worse, n), s.tango(worse, better, n)
    assert one.low <= (better - worse) / n <= one.high
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=1e-9)
    assert one.high - one.low > 0


def test_tango_keeps_its_level_at_the_margin_where_wald_does_not() -> None:
    # n = 198, discordance 20%, the candidate truly 5 points worse: of 2000 seeded trials at most
    # 5% plus three standard errors may call it non-inferior.
    rng = random.Random(7)
    false_passes = 0
    for _ in range(2000):
        draws = [rng.random() for _ in range(198)]
        better = sum(x < 0.075 for x in draws)
        worse = sum(x > 0.875 for x in draws)
        false_passes += s.tango_z(better, worse, 198, -0.05) > 1.6449
    assert false_passes / 2000 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)


def test_mcnemar() -> None:
    assert s.mcnemar(0, 0) == 1.0
    assert s.mcnemar(0, 5) == pytest.approx(0.0625)
    assert s.mcnemar(10, 2) == pytest.approx(0.03857, abs=1e-5)


@pytest.mark.parametrize(
    ("discordance", "delta", "needed"),
    [
        (0.02, 0.005, 4947),
        (0.02, 0.01, 1237),
        (0.02, 0.02, 310),
        (0.05, 0.005, 12366),
        (0.05, 0.01, 3092),
        (0.05, 0.02, 773),
        (0.05, 0.03, 344),
        (0.05, 0.05, 124),
        (0.10, 0.005, 24731),
        (0.10, 0.01, 6183),
        (0.10, 0.02, 1546),
        (0.10, 0.03, 687),
        (0.10, 0.05, 248),
        (0.20, 0.005, 49461),
        (0.20, 0.01, 12366),
        (0.20, 0.02, 3092),
        (0.20, 0.03, 1374),
        (0.20, 0.05, 495),
    ],
)
def test_sample_sizes(discordance: float, delta: float, needed: int) -> None:
    assert s.needed_for_non_inferiority(discordance, delta) == needed


def test_non_inferiority_without_discordance_needs_what_tango_needs() -> None:
    n = s.needed_for_non_inferiority(0.0, 0.01)
    assert s.tango(0, 0, n, level=0.9).low > -0.01 > s.tango(0, 0, n - 2, level=0.9).low


def test_clustered_mean_without_clusters_is_the_usual_standard_error() -> None:
    mean = s.clustered_mean([1.0, 2.0, 3.0, 4.0])
    assert mean.value == 2.5
    assert mean.se == pytest.approx(math.sqrt(5 / 3) / 2)
    assert mean.clusters == 4


def test_equal_values_in_a_cluster_count_once() -> None:
    values = [0.0, 1.0, 0.0, 1.0, 1.0]
    repeated = [value for value in values for _ in range(3)]
    clusters = [index for index in range(5) for _ in range(3)]
    assert s.clustered_mean(repeated, clusters).se == pytest.approx(s.clustered_mean(values).se)


def test_one_cluster_says_nothing() -> None:
    assert s.clustered_mean([0.2, 0.4], ["a", "a"]).interval(0.9) == s.Interval(-math.inf, math.inf)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=30))
def test_the_interval_of_a_mean_holds_it(values: list[float]) -> None:
    mean = s.clustered_mean(values)
    interval = mean.interval(0.9)
    assert interval.low <= mean.value <= interval.high


def test_wilson_and_newcombe() -> None:
    # Newcombe (1998), tables II of both papers: 81/263, and 56/70 against 48/80.
    assert points(s.wilson(81, 263)) == (25.53, 36.62)
    assert points(s.newcombe(48, 80, 56, 70)) == (5.24, 33.39)


@given(st.integers(1, 200), st.data())
def test_newcombe_is_antisymmetric(n: int, data: st.DataObject) -> None:
    a, b = (data.draw(st.integers(0, n)) for _ in "ab")
    one, other = s.newcombe(a, n, b, n), s.newcombe(b, n, a, n)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))


def test_holm() -> None:
    assert s.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert s.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_holm_never_lowers_a_p_value_and_keeps_the_order(p_values: list[float]) -> None:
    adjusted = s.holm(p_values)
    assert all(b >= a for a, b in zip(p_values, adjusted, strict=True))
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [adjusted[i] for i in order] == sorted(adjusted)
