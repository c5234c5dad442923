import random

import pytest

from flagdeploy.errors import UsageError
from flagdeploy.evals.distributions import normal_quantile
from flagdeploy.evals.sequential import LOOKS, boundaries, spent

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
