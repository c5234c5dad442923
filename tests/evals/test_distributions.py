import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagdeploy.evals import distributions as d


@pytest.mark.parametrize(
    ("p", "df", "t"),
    [  # NIST/SEMATECH e-Handbook of Statistical Methods, table 1.3.6.7.2
        (0.975, 1, 12.706),
        (0.975, 10, 2.228),
        (0.95, 5, 2.015),
        (0.95, 63, 1.669),
        (0.995, 30, 2.750),
        (0.9, 100, 1.290),
    ],
)
def test_t_quantile_is_the_tabulated_one(p: float, df: int, t: float) -> None:
    assert round(d.t_quantile(p, df), 3) == t


@given(st.floats(0.001, 0.999), st.integers(1, 500))
def test_t_quantile_inverts_the_distribution(p: float, df: int) -> None:
    assert d.t_cdf(d.t_quantile(p, df), df) == pytest.approx(p, abs=1e-12)


@given(st.floats(0.5, 50), st.floats(0.5, 50), st.floats(0, 1))
def test_regularized_beta_is_symmetric(a: float, b: float, x: float) -> None:
    mirrored = d.regularized_beta(b, a, 1.0 - x)
    assert d.regularized_beta(a, b, x) == pytest.approx(1.0 - mirrored, abs=1e-10)


@given(st.integers(1, 60), st.data())
def test_binomial_is_the_incomplete_beta(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n - 1))
    assert d.binomial_cdf(k, n) == pytest.approx(d.regularized_beta(n - k, k + 1, 0.5), abs=1e-12)


def test_fisher_exact_of_the_lady_tasting_tea() -> None:
    assert d.fisher_exact(3, 4, 1, 4) == pytest.approx(34 / 70)


def test_normal_cdf_keeps_its_tail() -> None:
    assert d.normal_cdf(-10) == pytest.approx(7.619853e-24, rel=1e-6)
    assert d.normal_quantile(0.975) == pytest.approx(1.959964, abs=1e-6)


def test_bisect_finds_roots_of_rising_and_falling_functions() -> None:
    assert d.bisect(lambda x: x * x - 2, 0, 2) == pytest.approx(math.sqrt(2))
    assert d.bisect(lambda x: 2 - x * x, 0, 2) == pytest.approx(math.sqrt(2))
