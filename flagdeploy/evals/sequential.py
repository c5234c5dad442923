"""Looking more than once without fooling oneself: group-sequential boundaries.

A run that asks every question 1, 2, 4, 8, 16 times, or growing parts of the questions once, and
stops when it can decide spends its alpha over the looks. Lan and DeMets, Biometrika 70, 659
(1983); boundaries by the recursion of Armitage, McPherson and Rowe, J. R. Statist. Soc. A 132, 235
(1969).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from flagdeploy.errors import UsageError
from flagdeploy.evals.distributions import bisect, normal_cdf, normal_quantile

LOOKS = (1, 2, 4, 8, 16)  # repeats K at which a sequential comparison looks
# Looks double, so O'Brien and Fleming's function would hardly ever stop before the last but one
# (z = 5.4 at an eighth of the plan) and Pocock's would cost the last one a third of its alpha.
SPENDING = "quadratic"
_STEPS = 401  # grid points of an integral; enough for three decimals of a boundary
_REACH = 8.0  # standard deviations


def spent(information: float, alpha: float, spending: str) -> float:
    """One-sided alpha spent when `information` in (0, 1] of the plan is in.

    ``obrien-fleming`` spends almost nothing early, 2 - 2 Phi(z_{1-alpha/2} / sqrt(t));
    ``pocock`` about evenly, alpha ln(1 + (e - 1) t); ``quadratic`` between the two, alpha t^2
    (Kim and DeMets, Biometrika 74, 149, 1987).
    """
    if spending == "quadratic":
        return alpha * information**2
    if spending == "obrien-fleming":
        return 2.0 * normal_cdf(-normal_quantile(1.0 - alpha / 2.0) / math.sqrt(information))
    if spending == "pocock":
        return alpha * math.log1p((math.e - 1.0) * information)
    raise UsageError(
        f"unknown alpha spending `{spending}`", hint="obrien-fleming, pocock or quadratic"
    )


def boundaries(
    looks: Sequence[float] = LOOKS, alpha: float = 0.05, spending: str = "obrien-fleming"
) -> list[float]:
    """The z value at each look (information, rising) beyond which a one-sided test may stop.

    Under the null the probability to ever cross is `alpha`, whatever is decided at each look.
    """
    times = [look / looks[-1] for look in looks]
    due = np.diff([0.0, *(spent(time, alpha, spending) for time in times)])
    edges: list[float] = []
    grid, mass = np.zeros(1), np.ones(1)  # the score process of runs that have not stopped, at 0
    for before, time, share in zip([0.0, *times], times, due, strict=False):
        spread = math.sqrt(time - before)
        edge = _edge(grid, mass, spread, float(share))
        edges.append(edge / math.sqrt(time))
        # Brownian motion from the old grid to a new one below the edge, by the trapezoid rule.
        fresh = np.linspace(-_REACH * math.sqrt(time), edge, _STEPS)
        steps = (fresh[:, None] - grid[None, :]) / spread
        density = np.exp(-0.5 * steps**2) @ mass / (spread * math.sqrt(2.0 * math.pi))
        density[[0, -1]] *= 0.5
        grid, mass = fresh, density * (fresh[1] - fresh[0])
    return edges


@dataclass(frozen=True)
class Look:
    """One of the looks planned at the shares `information` (rising, the last is 1) of the data.

    `number` counts from 1. A run planned with one look is an ordinary test: nothing changes.
    """

    number: int = 1
    information: tuple[float, ...] = (1.0,)
    spending: str = SPENDING

    @property
    def last(self) -> bool:
        return self.number == len(self.information)

    def spent(self, alpha: float) -> float:
        """How much of `alpha` has been spent when this look is done."""
        return spent(self.information[self.number - 1], alpha, self.spending)

    def nominal(self, alpha: float) -> float:
        """The level at which a test is to be held at this look, for `alpha` over all looks."""
        if len(self.information) == 1:
            return alpha
        return _nominal(self.information, alpha, self.spending)[self.number - 1]

    def p(self, p: float) -> float:
        """The p of this look's data as one of the whole sequence, also to be adjusted further.

        The least alpha at which this look would have stopped (a repeated p value: Jennison and
        Turnbull, J. R. Statist. Soc. B 51, 305, 1989). It is at most alpha at any look with
        probability alpha, so Holm's adjustment of such values keeps its level (Maurer and Bretz,
        Stat. Biopharm. Res. 5, 311, 2013).
        """
        if len(self.information) == 1:
            return p
        # The nominal level is nearly a fixed share of alpha, so few points tell it everywhere.
        levels = [_nominal(self.information, a, self.spending)[self.number - 1] for a in _ALPHAS]
        if p >= levels[-1]:
            return 1.0
        logs = np.interp(math.log(max(p, levels[0])), np.log(levels), np.log(_ALPHAS))
        return max(p, float(np.exp(logs)))


_ALPHAS = tuple(float(alpha) for alpha in np.logspace(-6, math.log10(0.5), 13))


@lru_cache(maxsize=256)
def _nominal(information: tuple[float, ...], alpha: float, spending: str) -> tuple[float, ...]:
    return tuple(normal_cdf(-edge) for edge in boundaries(information, alpha, spending))


_Points = np.ndarray[tuple[int], np.dtype[np.float64]]


def _edge(grid: _Points, mass: _Points, spread: float, due: float) -> float:
    """The value that the next step passes with probability `due`."""

    def excess(edge: float) -> float:
        beyond = (normal_cdf((x - edge) / spread) for x in grid)
        return float(np.dot(mass, list(beyond))) - due

    return bisect(excess, -_REACH, 2.0 * _REACH)
