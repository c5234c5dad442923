"""Check values: figures worked out independently, from the papers named in the module."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagdeploy.evals import proportions as s
from flagdeploy.evals.statistics import Interval


def points(interval: Interval) -> tuple[float, float]:
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
        false_passes += s.Paired(better, worse, 198).z(-0.05) > 1.6449
    assert false_passes / 2000 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)


def test_mcnemar() -> None:
    assert s.mcnemar(0, 0) == 1.0
    assert s.mcnemar(0, 5) == pytest.approx(0.0625)
    assert s.mcnemar(10, 2) == pytest.approx(0.03857, abs=1e-5)


def test_wilson_and_newcombe() -> None:
    # Newcombe (1998), tables II of both papers: 81/263, and 56/70 against 48/80.
    assert points(s.wilson(81, 263)) == (25.53, 36.62)
    assert points(s.newcombe(48, 80, 56, 70)) == (5.24, 33.39)


@given(st.integers(1, 200), st.data())
def test_newcombe_is_antisymmetric(n: int, data: st.DataObject) -> None:
    a, b = (data.draw(st.integers(0, n)) for _ in "ab")
    one, other = s.newcombe(a, n, b, n), s.newcombe(b, n, a, n)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
