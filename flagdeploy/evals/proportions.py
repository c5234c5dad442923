"""Two proportions: paired by question, or unpaired as published. Pure functions of counts.

Notation: side A is the baseline, side B the candidate, n paired questions; `better` are right on
B and wrong on A, `worse` right on A and wrong on B. Differences are B - A as fractions of one.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from flagdeploy.evals.distributions import (
    binomial_cdf,
    bisect,
    log_choose,
    normal_cdf,
    normal_quantile,
    t_cdf,
    t_quantile,
)
from flagdeploy.evals.statistics import Interval, clustered_mean

FEWEST_CLUSTERS = 20  # below, a cluster-robust variance is itself mostly noise


def mcnemar(better: int, worse: int) -> float:
    """Two-sided p of the exact McNemar (sign) test: 2 P(Bin(b+c, 1/2) <= min(b, c)), at most 1."""
    return min(1.0, 2.0 * binomial_cdf(min(better, worse), better + worse))


def mcnemar_mid_p(better: int, worse: int) -> float:
    """The exact test's mid-p, which counts the observed outcome half: closer to its level.

    Fagerland, Lydersen and Laake, BMC Medical Research Methodology 13:91 (2013).
    """
    m = better + worse
    observed = math.exp(log_choose(m, better) - m * math.log(2.0))
    return min(1.0, 2.0 * binomial_cdf(min(better, worse), m) - observed)


@dataclass(frozen=True)
class Paired:
    """Discordance of paired scores as Tango's score statistic takes it.

    Counts are of questions; with repeats or subjects they are divided by the design effect
    (Rao and Scott, Biometrics 48, 577, 1992), and `clusters` is below n.
    """

    better: float
    worse: float
    n: float
    clusters: int | None = None

    @property
    def estimate(self) -> float:
        return (self.better - self.worse) / self.n

    def z(self, delta: float) -> float:
        """The score statistic for H: p_B - p_A = delta (Tango, Stat. Med. 17, 891, 1998).

        The nuisance q (probability of `worse`) is the constrained maximum likelihood estimate.
        """
        n, better, worse = self.n, self.better, self.worse
        a = 2.0 * n
        b = -better - worse + (2.0 * n - better + worse) * delta
        c = -worse * delta * (1.0 - delta)
        q = (math.sqrt(max(0.0, b * b - 4.0 * a * c)) - b) / (2.0 * a)
        variance = n * (2.0 * q + delta * (1.0 - delta))
        numerator = better - worse - n * delta
        if variance <= 0.0:
            return 0.0 if numerator == 0.0 else math.copysign(math.inf, numerator)
        return numerator / math.sqrt(variance)

    def interval(self, level: float = 0.95) -> Interval:
        """Every delta with |Z| <= z; with clusters, the t quantile in the place of z.

        Unlike Wald's it has width when nothing differs: 0 and 0 of 30 give
        +-z^2/(n + z^2) = +-11.35 points at 95%.
        """
        p = 0.5 + level / 2.0
        z = t_quantile(p, self.clusters - 1) if self.clusters else normal_quantile(p)
        low = bisect(lambda d: self.z(d) - z, -1.0, self.estimate)
        high = bisect(lambda d: self.z(d) + z, self.estimate, 1.0)
        return Interval(low, high)

    def p_below(self, delta: float) -> float:
        """One-sided p of "the difference is at least `delta`"."""
        return self._cdf(self.z(delta))

    def p_above(self, delta: float) -> float:
        """One-sided p of "the difference is at most `delta`"."""
        return self._cdf(-self.z(delta))

    def _cdf(self, z: float) -> float:
        if math.isinf(z):
            return 0.0 if z < 0 else 1.0
        return t_cdf(z, self.clusters - 1) if self.clusters else normal_cdf(z)


def paired(
    differences: Sequence[float], clusters: Sequence[Hashable] | None = None, repeats: int = 1
) -> Paired:
    """Per-question score differences in [-1, 1] as `Paired`, clustered where `clusters` says so.

    A question asked `repeats` times counts once, with its mean. The design effect is the
    cluster-robust variance over the one that Tango assumes; it never claims more than questions
    times repeats, and one answer repeated word for word (greedy decoding) gains nothing. With
    fewer than `FEWEST_CLUSTERS` subjects, questions count as independent.

    The margin is a difference and not the ratio test of p_B - r p_A on purpose: its t statistic
    sees the spread of scores instead of that of differences, and passes 30 equal answers.
    """
    n = len(differences)
    better = math.fsum(d for d in differences if d > 0)
    worse = math.fsum(-d for d in differences if d < 0)
    count = len(set(clusters)) if clusters else n
    grouped = FEWEST_CLUSTERS <= count < n
    whole = all(d in (-1.0, 0.0, 1.0) for d in differences)
    assumed = (better + worse) / n - ((better - worse) / n) ** 2
    if (whole and not grouped) or assumed <= 0.0:
        return Paired(better, worse, n)
    robust = clustered_mean(differences, clusters if grouped else None).se
    design = max(1.0 / repeats, n * robust * robust / assumed)
    return Paired(better / design, worse / design, n / design, count if grouped else None)


def tango(better: int, worse: int, n: int, level: float = 0.95) -> Interval:
    """Tango's score interval for p_B - p_A of `n` questions answered once by each side."""
    return Paired(better, worse, n).interval(level)


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
