"""Intervals and p values by resampling whole sampling units; the same data give the same figures.

Units are put in order of their values before they are drawn, so that the order in which they
arrived changes nothing, and the generator starts from a fixed seed.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from flagdeploy.evals.distributions import normal_cdf, normal_quantile
from flagdeploy.evals.statistics import Interval, ratio

DRAWS = 2000
SEED = 20_2407  # any number; fixed so that a report can be printed again
SKEW = 1000  # units; with more, the mean's skewness is too small to correct

_Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def skew_interval(
    numerators: Sequence[float], denominators: Sequence[float] | None = None, level: float = 0.95
) -> Interval:
    """Interval of a mean, or a ratio of sums, of skew values: Student's t and BCa joined.

    Shares and divergences are mostly 0 with a few large values. There t ends too early above and
    the bootstrap too late below, so the judgement goes by the wider end of both.
    """
    weights = [1.0] * len(numerators) if denominators is None else denominators
    interval = ratio(numerators, weights).interval(level)
    if len(numerators) > SKEW:
        return interval
    return interval.joined(bootstrap(numerators, weights, level))


def bootstrap(
    numerators: Sequence[float],
    denominators: Sequence[float] | None = None,
    level: float = 0.95,
    draws: int = DRAWS,
) -> Interval:
    """BCa interval of sum(numerators) / sum(denominators) over units drawn with replacement.

    One pair per unit (a sequence with all of its tokens); without denominators, of the mean.
    Bias correction and acceleration by the jackknife: Efron, JASA 82, 171 (1987). An infinite
    edge says that a resample in the tail had no denominator at all.
    """
    x = np.asarray(numerators, float)
    y = np.ones_like(x) if denominators is None else np.asarray(denominators, float)
    order = np.lexsort((y, x))
    x, y, n = x[order], y[order], len(x)
    if n < 2 or not y.sum():
        return Interval(-math.inf, math.inf)
    counts = _counts(n, draws)
    below = counts @ y
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = np.where(below > 0, (counts @ x) / below, math.inf)
        left_out = (x.sum() - x) / (y.sum() - y)
    estimate = x.sum() / y.sum()
    edges = _bca(np.sort(drawn), estimate, left_out, level)
    return Interval(min(edges[0], estimate), max(edges[1], estimate))


@lru_cache(maxsize=8)
def _counts(n: int, draws: int) -> _Array:
    """How often each of `n` units is drawn, [draws, n]."""
    drawn = np.random.default_rng(SEED).multinomial(n, np.full(n, 1.0 / n), size=draws)
    return drawn.astype(float)


def _bca(drawn: _Array, estimate: float, left_out: _Array, level: float) -> tuple[float, float]:
    draws = len(drawn)
    # Half of the ties count as below, or a statistic with few values would seem biased.
    ties = np.isclose(drawn, estimate, rtol=1e-9, atol=0.0)
    lower = (np.sum((drawn < estimate) & ~ties) + 0.5 * np.sum(ties)) / draws
    bias = normal_quantile(min(max(lower, 0.5 / draws), 1 - 0.5 / draws))
    apart = left_out[np.isfinite(left_out)]
    apart = apart.mean() - apart
    spread = float((apart**2).sum())
    acceleration = float(((apart / math.sqrt(spread)) ** 3).sum()) / 6 if spread else 0.0
    edges = []
    for p in (0.5 - level / 2, 0.5 + level / 2):
        z = bias + normal_quantile(p)
        share = normal_cdf(bias + z / (1 - acceleration * z))
        edges.append(float(drawn[min(draws - 1, max(0, round(share * draws - 0.5)))]))
    return edges[0], edges[1]


def sign_flip_p(sums: Sequence[float], draws: int = 1999) -> float:
    """Two-sided p of "neither side is better" from one difference per independent unit.

    Under it each unit's sign is as likely either way. (1 + hits) / (1 + draws) is valid and
    never 0 (Phipson and Smyth, Stat. Appl. Genet. Mol. Biol. 9:39, 2010).
    """
    values = np.sort(np.abs(np.asarray(sums, float)))
    values = values[values > 0]
    if not len(values):
        return 1.0
    observed = abs(math.fsum(sums))
    signs = np.random.default_rng(SEED).integers(0, 2, (draws, len(values)), dtype=np.int8)
    totals = np.abs((2 * signs - 1) @ values)
    return float((1 + np.sum(totals >= observed - 1e-9)) / (1 + draws))
