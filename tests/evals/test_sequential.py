import random

import pytest

from flagdeploy.errors import UsageError
from flagdeploy.evals.distributions import normal_cdf, normal_quantile
from flagdeploy.evals.sequential import LOOKS, SPENDING, Look, boundaries, spent

# Published boundaries of five equal looks at one-sided 2.5% (Jennison and Turnbull, Group
# Sequential Methods, chapter 7; the program of Reboussin, DeMets, Kim and Lan).
PUBLISHED = {
    "obrien-fleming": [4.877, 3.357, 2.680, 2.290, 2.031],
    "pocock": [2.438, 2.427, 2.410, 2.397, 2.386],
}


@pytest.mark.parametrize("spending", PUBLISHED)
def test_published_boundaries(spending: str) -> None:
    found = boundaries(range(1, 6), 0.025, spending)
    assert [round(edge, 3) for edge in found] == PUBLISHED[spending]


def test_one_look_is_the_usual_test() -> None:
    assert boundaries([1], 0.05) == pytest.approx([normal_quantile(0.95)], abs=1e-6)


@pytest.mark.parametrize("spending", PUBLISHED)
def test_all_of_alpha_is_spent_at_the_end_and_never_given_back(spending: str) -> None:
    shares = [spent(look / LOOKS[-1], 0.05, spending) for look in LOOKS]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(0.05)


@pytest.mark.parametrize("spending", PUBLISHED)
def test_looking_five_times_alarms_no_more_often_than_once(spending: str) -> None:
    edges = boundaries(spending=spending)
    rng = random.Random(2)
    crossed = naive = 0
    for _ in range(4000):
        total, scores = 0.0, []
        for before, look in zip((0, *LOOKS), LOOKS, strict=False):
            total += rng.gauss(0.0, (look - before) ** 0.5)
            scores.append(total / look**0.5)
        crossed += any(z > edge for z, edge in zip(scores, edges, strict=True))
        naive += any(z > normal_quantile(0.95) for z in scores)
    assert crossed / 4000 == pytest.approx(0.05, abs=0.011)  # three standard errors
    assert naive / 4000 > 0.1  # what peeking would cost


def test_unknown_spending() -> None:
    with pytest.raises(UsageError, match="unknown alpha spending `none`"):
        spent(0.5, 0.05, "none")


@pytest.mark.parametrize("information", [(1 / 8, 1 / 4, 1 / 2, 1.0), (0.5, 1.0)])
def test_a_repeated_p_is_the_alpha_at_which_a_look_would_stop(
    information: tuple[float, ...],
) -> None:
    for number in range(1, len(information) + 1):
        look = Look(number, information)
        for alpha in (1e-5, 0.0042, 0.05, 0.3):
            edge = normal_cdf(-boundaries(information, alpha, SPENDING)[number - 1])
            assert look.p(edge) == pytest.approx(alpha, rel=2e-3)


def test_repeated_p_values_of_looks_alarm_no_more_often_than_said() -> None:
    rng = random.Random(5)
    looks = [Look(number, (0.125, 0.25, 0.5, 1.0)) for number in (1, 2, 3, 4)]
    alarms = 0
    for _ in range(4000):
        total, alarmed, before = 0.0, False, 0.0
        for look in looks:
            now = look.information[look.number - 1]
            total += rng.gauss(0.0, (now - before) ** 0.5)
            alarmed |= look.p(normal_cdf(-total / now**0.5)) < 0.05
            before = now
        alarms += alarmed
    assert alarms / 4000 == pytest.approx(0.05, abs=0.011)


def test_one_look_changes_nothing() -> None:
    look = Look()
    assert (look.p(0.03), look.nominal(0.05), look.spent(0.05), look.last) == (
        0.03, 0.05, 0.05, True
    )  # fmt: skip


def test_a_hopeless_p_stays_so_and_a_tiny_one_is_not_nothing() -> None:
    look = Look(1, (0.125, 1.0))
    assert look.p(0.5) == 1.0
    assert 0.0 < look.p(1e-30) <= 1e-6 * 1.001
