"""Check values: figures worked out independently, from the papers named in the module."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagdeploy.evals import power as s
from flagdeploy.evals.proportions import Paired, tango


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
    assert tango(0, 0, n, level=0.9).low > -0.01 > tango(0, 0, n - 2, level=0.9).low


# alpha 5%, power 80%: McNemar two-sided, two one-sided tests
SIZES = [
    (0.02, 0.005, 6277, 6852),
    (0.02, 0.01, 1568, 1713),
    (0.02, 0.02, 391, 429),
    (0.05, 0.005, 15696, 17128),
    (0.05, 0.01, 3923, 4282),
    (0.05, 0.02, 979, 1071),
    (0.05, 0.03, 434, 476),
    (0.05, 0.05, 155, 172),
    (0.10, 0.005, 31394, 34256),
    (0.10, 0.02, 1960, 2141),
    (0.10, 0.05, 312, 343),
    (0.20, 0.005, 62789, 68511),
    (0.20, 0.01, 15696, 17128),
    (0.20, 0.03, 1742, 1904),
    (0.20, 0.05, 626, 686),
]


@pytest.mark.parametrize(("discordance", "delta", "difference", "equivalence"), SIZES)
def test_sizes_to_find_a_difference_and_to_show_equivalence(
    discordance: float, delta: float, difference: int, equivalence: int
) -> None:
    assert s.needed_for_difference(discordance, delta) == pytest.approx(difference, abs=1)
    assert s.needed_for_equivalence(discordance, delta) == pytest.approx(equivalence, abs=1)


# n, discordance, and what 1, 4, 16 and 64 answers to each question can find, in points
DETECTABLE = {
    "AIME 2025": (30, 0.18, (21.7, 10.8, 5.4, 2.7)),
    "GPQA-Diamond": (198, 0.18, (8.4, 4.2, 2.1, 1.1)),
    "MATH-500": (500, 0.06, (3.1, 1.5, 0.8, 0.4)),
    "GSM8K": (1319, 0.04, (1.5, 0.8, 0.4, 0.2)),
    "C-Eval": (1346, 0.06, (1.9, 0.9, 0.5, 0.2)),
    "MMLU": (14042, 0.08, (0.7, 0.3, 0.2, 0.1)),
}


@pytest.mark.parametrize("name", DETECTABLE)
def test_what_a_benchmark_can_find(name: str) -> None:
    n, discordance, expected = DETECTABLE[name]
    found = [100 * s.detectable(discordance, n * repeats) for repeats in (1, 4, 16, 64)]
    assert found == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize(
    ("n", "accuracy", "discordance", "repeats"),
    [
        (1319, 0.9575, 0.04, 3),
        (14042, 0.8534, 0.08, 1),
        (1346, 0.89, 0.06, 4),
        (500, 0.932, 0.06, 9),
        (198, 0.702, 0.18, 115),
        (30, 0.7667, 0.18, 632),
    ],
)
def test_repeats_that_decide_at_99_per_cent(
    n: int, accuracy: float, discordance: float, repeats: int
) -> None:
    task = s.Task("t", n, accuracy, 100.0, 0.01 * accuracy, discordance)
    (planned,) = s.plan([task], tokens_per_second=1000.0)
    assert planned.repeats == repeats
    assert planned.requests == n * repeats
    assert planned.minutes == pytest.approx(n * repeats * 100 / 1000 / 60)


def test_a_pool_is_planned_first() -> None:
    tasks = [s.Task("a", 100, 0.9, 50.0, 0.03), s.Task("b", 300, 0.7, 150.0, 0.03)]
    pool, a, b = s.plan(tasks, tokens_per_second=10.0)
    assert (pool.name, pool.n) == ("all benchmarks", 400)
    assert pool.margin == pytest.approx(0.03)
    assert pool.discordance == pytest.approx((a.discordance * 100 + b.discordance * 300) / 400)
    assert pool.needed < b.needed
    assert pool.tokens == round(400 * pool.repeats * 125.0)


@pytest.mark.parametrize(("discordance", "delta"), [(0.05, 0.03), (0.10, 0.05), (0.20, 0.05)])
def test_the_planned_power_is_the_simulated_one(discordance: float, delta: float) -> None:
    n = s.needed_for_non_inferiority(discordance, delta)
    rng = random.Random(f"{discordance} {delta}")
    passes = 0
    for _ in range(800):
        better = worse = 0
        for _ in range(n):
            x = rng.random()
            better += x < discordance / 2
            worse += x > 1 - discordance / 2
        passes += Paired(better, worse, n).p_above(-delta) < 0.05
    # three standard errors of the simulation, and what the normal approximation is off by
    assert passes / 800 == pytest.approx(s.power_of(discordance, delta, n), abs=0.043 + 0.02)


@given(st.floats(0.01, 0.3), st.floats(0.005, 0.1))
def test_more_questions_more_power_and_more_flips_less(discordance: float, delta: float) -> None:
    powers = [s.power_of(discordance, delta, n) for n in (10, 100, 1000, 10_000)]
    assert powers == sorted(powers)
    assert s.power_of(2 * discordance, delta, 1000) <= s.power_of(discordance, delta, 1000)
    assert s.needed_for_non_inferiority(discordance, delta) >= s.needed_for_non_inferiority(
        discordance, 2 * delta
    )
