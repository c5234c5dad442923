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


def test_mid_p_lies_between_half_and_all_of_the_exact_p() -> None:
    # Fagerland et al. (2013), table 1: 1 and 7 discordant of 21: 0.0703 exact, 0.0391 mid-p
    assert s.mcnemar(1, 7) == pytest.approx(0.0703, abs=5e-5)
    assert s.mcnemar_mid_p(1, 7) == pytest.approx(0.0391, abs=5e-5)
    assert s.mcnemar_mid_p(0, 0) == 1.0


@given(st.integers(0, 60), st.integers(0, 60))
def test_mid_p_is_never_above_the_exact_p_and_both_swap_sides(better: int, worse: int) -> None:
    assert 0.0 < s.mcnemar_mid_p(better, worse) <= s.mcnemar(better, worse) + 1e-12
    assert s.mcnemar_mid_p(better, worse) == pytest.approx(s.mcnemar_mid_p(worse, better))


@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 200))
def test_one_more_loss_never_moves_the_interval_up(better: int, worse: int, same: int) -> None:
    n = better + worse + same
    before, after = s.tango(better, worse, n), s.tango(better, worse + 1, n)
    assert after.low <= before.low + 1e-9
    assert after.high <= before.high + 1e-9


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 300), st.integers(1, 30))
def test_p_values_and_interval_are_one_test(
    better: int, worse: int, same: int, points: int
) -> None:
    delta = -points / 100
    found = s.Paired(better, worse, better + worse + same + 1)
    assert found.p_above(delta) + found.p_below(delta) == pytest.approx(1.0)
    interval = found.interval(0.9)
    if abs(delta - interval.low) > 1e-6:
        assert (found.p_above(delta) < 0.05) == (delta < interval.low)


def test_paired_scores_of_one_answer_each_are_their_counts() -> None:
    found = s.paired([1.0, -1.0, -1.0, 0.0, 0.0])
    assert found == s.Paired(1.0, 2.0, 5)


def test_an_answer_repeated_word_for_word_gains_nothing() -> None:
    once = [1.0] * 3 + [-1.0] * 5 + [0.0] * 192
    assert s.paired(once, repeats=16) == s.paired(once)


def test_repeats_with_sampling_narrow_the_interval() -> None:
    # 100 questions that either side answers right half of the time, asked 16 times
    rng = random.Random(3)

    def share() -> float:
        return sum(rng.random() < 0.5 for _ in range(16)) / 16

    found = s.paired([share() - share() for _ in range(100)], repeats=16)
    narrow = found.interval()
    one = s.tango(25, 25, 100)
    assert narrow.high - narrow.low == pytest.approx((one.high - one.low) / 4, rel=0.25)


def test_repeats_never_count_for_more_than_themselves() -> None:
    # one question moved by 1/16: its own spread would make the interval 16 times too narrow
    found = s.paired([1 / 16] + [0.0] * 99, repeats=4)
    assert found.n <= 400


def test_subjects_that_share_their_luck_widen_the_interval() -> None:
    differences = [float(subject % 3 - 1) for subject in range(60) for _ in range(10)]
    subjects = [subject for subject in range(60) for _ in range(10)]
    found = s.paired(differences, subjects)
    assert found.clusters == 60
    assert found.n == pytest.approx(60, rel=0.05)
    assert found.estimate == pytest.approx(0.0)
    alone, together = s.paired(differences).interval(), found.interval()
    assert together.high - together.low > 3 * (alone.high - alone.low)


def test_too_few_subjects_count_as_questions() -> None:
    differences = [1.0, -1.0] * 100
    assert s.paired(differences, [index % 4 for index in range(200)]) == s.paired(differences)


def test_a_clustered_interval_keeps_its_level() -> None:
    # 57 subjects of 20 questions; a subject's questions move together. Truth is 0.
    rng = random.Random(11)
    outside = 0
    for _ in range(300):
        differences, subjects = [], []
        for subject in range(57):
            lean = rng.gauss(0.0, 0.08)
            for _ in range(20):
                x = rng.random()
                differences.append(float(x < 0.1 + lean / 2) - float(x > 0.9 + lean / 2))
                subjects.append(subject)
        interval = s.paired(differences, subjects).interval(0.9)
        outside += not interval.low <= 0.0 <= interval.high
    assert outside / 300 <= 0.1 + 3 * math.sqrt(0.09 / 300)
