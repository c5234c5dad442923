import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagdeploy.evals.teacher_forcing import Position, difference, lumped_kl, outside


def position(token: int, **probabilities: float) -> Position:
    top = {int(key[1:]): math.log(p) for key, p in probabilities.items()}
    return Position(top[token], top)


def test_means_over_a_sequence() -> None:
    a = [position(1, _1=0.6, _2=0.3), position(2, _1=0.3, _2=0.6)]
    b = [position(1, _1=0.6, _2=0.3), position(2, _1=0.6, _2=0.3)]
    found = difference("k", a, b)
    assert (found.length, found.top1, found.top5) == (2, 0.5, 1.0)
    assert found.delta_nll == pytest.approx(math.log(2) / 2)
    assert found.kl == pytest.approx(0.3 * math.log(2) / 2)


def test_tied_best_tokens_agree() -> None:
    a, b = position(1, _1=0.45, _2=0.45), position(1, _1=0.449, _2=0.451)
    assert difference("k", [a], [b]).top1 == 1.0
    assert difference("k", [b], [a]).top1 == 1.0


def test_minus_infinity_is_bounded_and_counts_as_finite() -> None:
    a, b = position(1, _1=0.9, _2=0.1), Position(-9999.0, {1: -9999.0, 2: 0.0})
    found = difference("k", [a], [b])
    assert found.top1 == 0.0
    assert found.delta_nll == pytest.approx(math.log(0.9) + 30)
    assert found.not_finite == 0


def test_a_position_of_which_the_endpoint_said_nothing_counts_nowhere() -> None:
    a = [position(1, _1=0.9, _2=0.1)] * 2
    assert difference("k", a, [a[0], Position(0.0, {})]) == difference("k", a[:1], a[:1])


def test_a_token_outside_the_listed_ones_has_at_most_what_is_left_over() -> None:
    assert outside({1: math.log(0.9), 2: math.log(0.06)}) == pytest.approx(math.log(0.04))
    assert outside({1: math.log(0.5), 2: math.log(0.01)}) == pytest.approx(math.log(0.01))


def test_nan_disagrees_and_is_counted() -> None:
    a, b = position(1, _1=0.9, _2=0.1), Position(math.nan, {1: math.nan, 2: math.nan})
    found = difference("k", [a], [b])
    assert (found.top1, found.top5, found.not_finite) == (0.0, 0.0, 1)
    assert math.isfinite(found.kl + found.delta_nll)


def distributions() -> st.SearchStrategy[list[float]]:
    weights = st.lists(st.floats(0.01, 1), min_size=8, max_size=8)
    return weights.map(lambda w: [x / sum(w) for x in w])


@given(distributions(), distributions(), st.integers(2, 8))
def test_lumped_kl_is_a_lower_bound_and_never_negative(
    p: list[float], q: list[float], k: int
) -> None:
    def top(values: list[float]) -> dict[int, float]:
        best = sorted(range(8), key=lambda i: -values[i])[:k]
        return {i: math.log(values[i]) for i in best}

    full = sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
    # EPSILON stands in for a remainder of 0, which moves the bound by its own size
    assert 0.0 <= lumped_kl(top(p), top(q)) <= full + 2e-5


@given(distributions())
def test_kl_of_a_distribution_with_itself_is_nothing(p: list[float]) -> None:
    top = {i: math.log(x) for i, x in enumerate(p)}
    assert lumped_kl(top, top) == pytest.approx(0.0, abs=1e-12)
