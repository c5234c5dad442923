"""Means of clustered values, their intervals, and p values of several tests at once. Pure.

The sampling unit is whatever was drawn on its own: a question, a subject with its questions, a
sequence with its tokens. Everything here takes one value per unit or a unit's name per value.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from flagdeploy.evals.distributions import t_cdf, t_quantile


@dataclass(frozen=True)
class Interval:
    low: float
    high: float

    def scaled(self, factor: float) -> "Interval":
        return Interval(factor * self.low, factor * self.high)

    def inside(self, low: float, high: float) -> bool:
        return low < self.low and self.high < high

    def joined(self, other: "Interval") -> "Interval":
        """The smallest interval that holds both."""
        return Interval(min(self.low, other.low), max(self.high, other.high))


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

    def p_above(self, limit: float = 0.0) -> float:
        """One-sided p of the t test of "the mean is at most `limit`"; 1 for a single unit."""
        if self.clusters < 2 or self.value <= limit:
            return 1.0
        if self.se == 0.0:
            return 0.0
        return t_cdf((limit - self.value) / self.se, self.clusters - 1)


@dataclass(frozen=True)
class Scale(Mean):
    """A mean above 0 whose spread grows with it, such as one of squares: t on its logarithm."""

    def interval(self, level: float) -> Interval:
        if self.value <= 0.0 or self.clusters < 2:
            return super().interval(level)
        logarithm = Mean(math.log(self.value), self.se / self.value, self.clusters)
        edges = logarithm.interval(level)
        return Interval(math.exp(edges.low), math.exp(min(700.0, edges.high)))

    def p_above(self, limit: float = 0.0) -> float:
        if self.value <= 0.0:
            return 1.0
        logarithm = Mean(math.log(self.value), self.se / self.value, self.clusters)
        return logarithm.p_above(math.log(limit))


def clustered_mean(values: Sequence[float], clusters: Sequence[Hashable] | None = None) -> Mean:
    """Mean and cluster-robust standard error of `values`.

    SE^2 = C/(C-1) / n^2 * sum_c (sum_{i in c} (x_i - mean))^2, Miller (arXiv 2411.00640)
    eq. 4 with the small-sample factor of Cameron and Miller (2015). Without clusters each
    value is its own, which gives the usual s / sqrt(n).
    """
    n = len(values)
    mean = math.fsum(values) / n
    sums: dict[Hashable, list[float]] = {}
    for cluster, value in zip(clusters or range(n), values, strict=True):
        sums.setdefault(cluster, []).append(value - mean)
    count = len(sums)
    if count < 2:
        return Mean(mean, math.inf, count)
    total = math.fsum(math.fsum(inside) ** 2 for inside in sums.values())
    return Mean(mean, math.sqrt(total * count / (count - 1)) / n, count)


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Mean:
    """sum(numerators) / sum(denominators) with one pair per unit; SE by linearization.

    Cochran, Sampling Techniques, 3rd ed., eq. 6.13. Raises ZeroDivisionError where all
    denominators are 0.
    """
    value = math.fsum(numerators) / math.fsum(denominators)
    rest = clustered_mean([a - value * b for a, b in zip(numerators, denominators, strict=True)])
    scale = math.fsum(denominators) / len(denominators)
    return Mean(value, rest.se / scale, rest.clusters)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (Scand. J. Statist. 6, 65, 1979), in the order given."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted
