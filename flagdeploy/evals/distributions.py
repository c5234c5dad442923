"""Normal, Student t, binomial and hypergeometric probabilities, without scipy.

Checked against tables in tests/evals/test_distributions.py; arguments are plain floats.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from statistics import NormalDist

_NORMAL = NormalDist()


def normal_cdf(x: float) -> float:
    # erfc keeps its relative precision in the lower tail, where NormalDist.cdf rounds to 0.
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


def normal_quantile(p: float) -> float:
    return _NORMAL.inv_cdf(p)


def regularized_beta(a: float, b: float, x: float) -> float:
    """I_x(a, b), by the continued fraction of DLMF 8.17.22 with Lentz's method.

    Source: NIST Digital Library of Mathematical Functions, section 8.17(v); evaluation as in
    Press et al., Numerical Recipes, 3rd ed., section 6.4. Relative error about 1e-14.
    """
    if x <= 0.0 or x >= 1.0:
        return 0.0 if x <= 0.0 else 1.0
    if x > (a + 1.0) / (a + b + 2.0):  # the fraction converges fast only below the mean
        return 1.0 - regularized_beta(b, a, 1.0 - x)
    log_front = (
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    return math.exp(log_front) * _beta_fraction(a, b, x) / a


def _beta_fraction(a: float, b: float, x: float) -> float:
    tiny = 1e-300
    c, d = 1.0, 1.0 / (1.0 - (a + b) * x / (a + 1.0) or tiny)
    value = d
    for m in range(1, 1000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / (1.0 + term * d or tiny)
            c = 1.0 + term / c or tiny
            value *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return value


def t_cdf(t: float, df: float) -> float:
    """P(T <= t) for Student's t with `df` degrees of freedom.

    2 P(T > |t|) = I_x(df/2, 1/2) with x = df/(df + t^2) (DLMF 8.17); near 0 its complement is used,
    because 1 - x would lose t^2.
    """
    if t * t < df:
        half = 0.5 * regularized_beta(0.5, df / 2.0, t * t / (df + t * t))
        return 0.5 + math.copysign(half, t)
    tail = 0.5 * regularized_beta(df / 2.0, 0.5, df / (df + t * t))
    return 1.0 - tail if t > 0 else tail


@lru_cache
def t_quantile(p: float, df: float) -> float:
    """The t with P(T <= t) = p, by bisection on `t_cdf`."""
    if p < 0.5:
        return -t_quantile(1.0 - p, df)
    upper = 1.0
    while t_cdf(upper, df) < p:
        upper *= 2.0
    return bisect(lambda t: t_cdf(t, df) - p, 0.0, upper)


def binomial_cdf(k: int, n: int, p: float = 0.5) -> float:
    """P(X <= k) for X ~ Bin(n, p), as a sum of exact terms."""
    logs = (log_choose(n, i) + i * math.log(p) + (n - i) * math.log1p(-p) for i in range(k + 1))
    return min(1.0, math.fsum(math.exp(value) for value in logs))


def fisher_exact(right_a: int, n_a: int, right_b: int, n_b: int) -> float:
    """Two-sided p of Fisher's exact test: the sum over tables no likelier than the observed one."""
    total = right_a + right_b

    def log_p(k: int) -> float:
        return log_choose(n_a, k) + log_choose(n_b, total - k) - log_choose(n_a + n_b, total)

    limit = log_p(right_a) + 1e-7  # tables equal but for rounding count as equally likely
    tables = range(max(0, total - n_b), min(n_a, total) + 1)
    return min(1.0, math.fsum(math.exp(p) for p in map(log_p, tables) if p <= limit))


def bisect(f: Callable[[float], float], low: float, high: float) -> float:
    """The root of a monotone `f` between `low` and `high`, to the last bit of a double."""
    rising = f(high) >= f(low)
    while True:
        middle = 0.5 * (low + high)
        if middle in (low, high):
            return middle
        if (f(middle) < 0.0) == rising:
            low = middle
        else:
            high = middle


def log_choose(n: int, k: int) -> float:
    """ln of n over k."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
