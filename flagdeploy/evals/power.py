"""How many questions, repeats and sequences decide, and what a run will cost, before it is run.

z sums are those of the usual normal approximations: `alpha` one-sided for non-inferiority and
equivalence, two-sided for a difference. Paired designs depend on the discordance psi, the share
of questions that exactly one side answers right; margins are fractions of one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from flagdeploy.evals.distributions import normal_cdf, normal_quantile
from flagdeploy.evals.statistics import Mean

ALPHA, POWER = 0.05, 0.8


# --- paired questions ----------------------------------------------------------------------------


def needed_for_non_inferiority(
    discordance: float, delta: float, alpha: float = ALPHA, power: float = POWER
) -> int:
    """Paired items to show B no more than `delta` worse, when in truth A and B are equal.

    Never below z^2 (1 - delta) / delta, what Tango's interval needs when nothing is discordant.
    """
    z_a, z_b = normal_quantile(1 - alpha), normal_quantile(power)
    silent = z_a * z_a * (1 - delta) / delta
    return math.ceil(max(silent, (z_a + z_b) ** 2 * discordance / delta**2))


def needed_for_equivalence(
    discordance: float, delta: float, alpha: float = ALPHA, power: float = POWER
) -> int:
    """Paired items to show B within +-`delta` of A (two one-sided tests), when they are equal."""
    z = normal_quantile(1 - alpha) + normal_quantile(0.5 + power / 2.0)
    return math.ceil(z * z * discordance / delta**2)


def needed_for_difference(
    discordance: float, delta: float, alpha: float = ALPHA, power: float = POWER
) -> int:
    """Paired items for McNemar's test to find a true difference of `delta` (Connor 1987)."""
    z_a, z_b = normal_quantile(1 - alpha / 2.0), normal_quantile(power)
    root = z_a * math.sqrt(discordance) + z_b * math.sqrt(discordance - delta**2)
    return math.ceil((root / delta) ** 2)


def detectable(discordance: float, n: float, alpha: float = ALPHA, power: float = POWER) -> float:
    """The least true difference that `n` paired items find (two-sided) with `power`."""
    z = normal_quantile(1 - alpha / 2.0) + normal_quantile(power)
    return z * math.sqrt(discordance / n)


def power_of(discordance: float, delta: float, n: float, alpha: float = ALPHA) -> float:
    """Probability that `n` paired items show non-inferiority at `delta` when A and B are equal."""
    if n < needed_for_non_inferiority(0.0, delta, alpha):
        return 0.0
    if discordance == 0.0:
        return 1.0
    return normal_cdf(delta * math.sqrt(n / discordance) - normal_quantile(1 - alpha))


# --- unpaired totals, clusters -------------------------------------------------------------------


def needed_unpaired(
    p_a: float, p_b: float, delta: float, alpha: float = ALPHA, power: float = POWER
) -> int:
    """Items per side for unpaired non-inferiority at `delta`, when in truth A and B are equal."""
    z = normal_quantile(1 - alpha) + normal_quantile(power)
    return math.ceil(z * z * (p_a * (1 - p_a) + p_b * (1 - p_b)) / delta**2)


def needed_clusters(mean: Mean, room: float, alpha: float = ALPHA, power: float = POWER) -> int:
    """Clusters that put a one-sided bound `room` away from the mean, at the spread seen so far."""
    z = normal_quantile(1 - alpha) + normal_quantile(power)
    return max(2, math.ceil(mean.clusters * (z * mean.se / room) ** 2))


# --- planning a run ------------------------------------------------------------------------------

# Share of questions that flip between two runs of one model, by what it scores: of questions
# right with probability p, 2 p (1 - p) flip; most are always right or always wrong. Figures of
# published repeats: AIME 2025 and GPQA-Diamond 0.18, MMLU 0.08, C-Eval and MATH-500 0.06,
# GSM8K 0.04, which lie near 2/3 of (1 - accuracy) with little below 0.02.
FLIPPING = 2.0 / 3.0
LEAST_DISCORDANCE = 0.02


@dataclass(frozen=True)
class Task:
    """What is known of a benchmark before a run; `tokens` of a mean reply, None where unknown."""

    name: str
    n: int
    accuracy: float
    tokens: float | None
    margin: float
    discordance: float | None = None

    @property
    def expected_discordance(self) -> float:
        if self.discordance is not None:
            return self.discordance
        return max(LEAST_DISCORDANCE, FLIPPING * (1.0 - self.accuracy))


@dataclass(frozen=True)
class Planned:
    """One line of a plan. `power` is that of a single pass over the questions there are."""

    name: str
    n: int
    margin: float
    discordance: float
    needed: int
    repeats: int
    power: float
    detectable: float
    requests: int
    tokens: int | None
    minutes: float | None


def plan(
    tasks: Sequence[Task],
    *,
    tokens_per_second: float,
    alpha: float = ALPHA,
    power: float = POWER,
) -> list[Planned]:
    """Per benchmark, and pooled over all where there are several: what a verdict takes.

    `repeats` is K, how often every question must be asked (with sampling; greedy repeats are
    copies). `tokens_per_second` is the endpoint's output over all requests in flight; minutes
    are tokens over that, for the candidate alone.
    """
    rows = [_planned(task, tokens_per_second, alpha, power) for task in tasks]
    if len(tasks) < 2:
        return rows
    n = sum(task.n for task in tasks)

    def mean(values: Sequence[float]) -> float:
        return math.fsum(v * task.n for v, task in zip(values, tasks, strict=True)) / n

    pool = Task(
        "all benchmarks",
        n,
        mean([task.accuracy for task in tasks]),
        None
        if any(task.tokens is None for task in tasks)
        else mean([t.tokens or 0 for t in tasks]),
        mean([task.margin for task in tasks]),
        mean([task.expected_discordance for task in tasks]),
    )
    return [_planned(pool, tokens_per_second, alpha, power), *rows]


def _planned(task: Task, tokens_per_second: float, alpha: float, power: float) -> Planned:
    psi = task.expected_discordance
    needed = needed_for_non_inferiority(psi, task.margin, alpha, power)
    repeats = math.ceil(needed / task.n)
    tokens = None if task.tokens is None else round(task.n * repeats * task.tokens)
    return Planned(
        name=task.name,
        n=task.n,
        margin=task.margin,
        discordance=psi,
        needed=needed,
        repeats=repeats,
        power=power_of(psi, task.margin, task.n, alpha),
        detectable=detectable(psi, task.n, alpha, power),
        requests=task.n * repeats,
        tokens=tokens,
        minutes=None if tokens is None else tokens / tokens_per_second / 60.0,
    )
