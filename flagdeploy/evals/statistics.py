"""The tests behind a verdict: pure functions of counts and scores.

Notation throughout: side A is the baseline, side B the candidate, n paired items;
`better` items were right on B and wrong on A, `worse` ones right on A and wrong on B.
Differences are B - A as fractions of one (0.01 is one percentage point).
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from flagdeploy.evals.distributions import (
    binomial_cdf,
    bisect,
    normal_cdf,
    normal_quantile,
    t_quantile,
)


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True)
class Mean:
    """A mean with its standard error over `clusters` independent units."""

    value: float
    se: float
    clusters: int

    def interval(self, level: float) -> Interval:
        """Student t interval with clusters - 1 degrees of freedom; the whole line for one."""
        if self.clusters < 2:
            return Interval(-math.inf, math.inf)
        half = t_quantile(0.5 + level / 2.0, self.clusters - 1) * self.se
        return Interval(self.value - half, self.value + half)


# --- paired, one answer per item ---------------------------------------------------------------


def mcnemar(better: int, worse: int) -> float:
    """Two-sided p of the exact McNemar (sign) test: 2 P(Bin(b+c, 1/2) <= min(b, c)), at most 1."""
    return min(1.0, 2.0 * binomial_cdf(min(better, worse), better + worse))


def tango_z(better: int, worse: int, n: int, delta: float) -> float:
    """Tango's score statistic for H: p_B - p_A = delta (Statistics in Medicine 17, 891, 1998).

    The nuisance q (probability of `worse`) is the constrained maximum likelihood estimate.
    """
    a = 2.0 * n
    b = -better - worse + (2.0 * n - better + worse) * delta
    c = -worse * delta * (1.0 - delta)
    q = (math.sqrt(max(0.0, b * b - 4.0 * a * c)) - b) / (2.0 * a)
    variance = n * (2.0 * q + delta * (1.0 - delta))
    numerator = better - worse - n * delta
    if variance <= 0.0:
        return 0.0 if numerator == 0.0 else math.copysign(math.inf, numerator)
    return numerator / math.sqrt(variance)


def tango(better: int, worse: int, n: int, level: float = 0.95) -> Interval:
    """Tango's score interval for p_B - p_A of paired answers: every delta with |Z| <= z.

    Unlike Wald's it is not empty of width when nothing differs: 0 and 0 of 30 give
    +-z^2/(n + z^2) = +-11.35 points at 95%.
    """
    z = normal_quantile(0.5 + level / 2.0)
    estimate = (better - worse) / n
    low = bisect(lambda d: tango_z(better, worse, n, d) - z, -1.0, estimate)
    high = bisect(lambda d: tango_z(better, worse, n, d) + z, estimate, 1.0)
    return Interval(low, high)


# --- graded scores, repeats, clusters ----------------------------------------------------------


def clustered_mean(values: Sequence[float], clusters: Sequence[Hashable] | None = None) -> Mean:
    """Mean and cluster-robust standard error of `values`.

    SE^2 = C/(C-1) / n^2 * sum_c (sum_{i in c} (x_i - mean))^2, Miller (arXiv 2411.00640)
    eq. 4 with the small-sample factor of Cameron and Miller (2015). Without clusters each
    value is its own, which gives the usual s / sqrt(n).
    """
    n = len(values)
    mean = math.fsum(values) / n
    sums: dict[Hashable, float] = {}
    for cluster, value in zip(clusters or range(n), values, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + (value - mean)
    count = len(sums)
    if count < 2:
        return Mean(mean, math.inf, count)
    total = math.fsum(s * s for s in sums.values())
    return Mean(mean, math.sqrt(total * count / (count - 1)) / n, count)


# --- unpaired totals ---------------------------------------------------------------------------


def wilson(right: int, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval for one proportion (JASA 22, 209, 1927)."""
    z = normal_quantile(0.5 + level / 2.0)
    p = right / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def newcombe(right_a: int, n_a: int, right_b: int, n_b: int, level: float = 0.95) -> Interval:
    """Newcombe's hybrid score interval for p_B - p_A, unpaired (Stat. Med. 17, 873)."""
    p_a, p_b = right_a / n_a, right_b / n_b
    a, b = wilson(right_a, n_a, level), wilson(right_b, n_b, level)
    low = p_b - p_a - math.hypot(p_b - b.low, a.high - p_a)
    high = p_b - p_a + math.hypot(b.high - p_b, p_a - a.low)
    return Interval(low, high)


def unpaired_se(right_a: int, n_a: int, right_b: int, n_b: int, ratio: float = 1.0) -> float:
    """Standard error of p_B - ratio * p_A for independent samples."""
    p_a, p_b = right_a / n_a, right_b / n_b
    return math.sqrt(ratio * ratio * p_a * (1 - p_a) / n_a + p_b * (1 - p_b) / n_b)


def unpaired_p(right_a: int, n_a: int, right_b: int, n_b: int) -> float:
    """Two-sided p of the z test for p_A = p_B with unpooled variance."""
    se = unpaired_se(right_a, n_a, right_b, n_b)
    difference = right_b / n_b - right_a / n_a
    if se == 0.0:
        return 1.0 if difference == 0.0 else 0.0
    return 2.0 * normal_cdf(-abs(difference) / se)


# --- sample sizes: items that give `power` at one- or two-sided `alpha` --------------------------


def needed_for_non_inferiority(
    discordance: float, delta: float, alpha: float = 0.05, power: float = 0.8
) -> int:
    """Paired items to show B no more than `delta` worse, when in truth A and B are equal.

    Never below z^2 (1 - delta) / delta, what Tango's interval needs when nothing is discordant.
    """
    z_a, z_b = normal_quantile(1 - alpha), normal_quantile(power)
    silent = z_a * z_a * (1 - delta) / delta
    return math.ceil(max(silent, (z_a + z_b) ** 2 * discordance / delta**2))


def needed_unpaired(
    p_a: float, p_b: float, delta: float, alpha: float = 0.05, power: float = 0.8
) -> int:
    """Items per side for unpaired non-inferiority at `delta`, when in truth A and B are equal."""
    z = normal_quantile(1 - alpha) + normal_quantile(power)
    return math.ceil(z * z * (p_a * (1 - p_a) + p_b * (1 - p_b)) / delta**2)


def needed_clusters(mean: Mean, room: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """Clusters that put a one-sided bound `room` away from the mean, at the spread seen so far."""
    z = normal_quantile(1 - alpha) + normal_quantile(power)
    return max(2, math.ceil(mean.clusters * (z * mean.se / room) ** 2))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (Scand. J. Statist. 6, 65, 1979), in the order given."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted
