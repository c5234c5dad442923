"""Looking more than once without fooling oneself: group-sequential boundaries.

A run that asks every question 1, 2, 4, 8, 16 times and stops when it can decide spends its alpha
over the looks. Lan and DeMets, Biometrika 70, 659 (1983); boundaries by the recursion of
Armitage, McPherson and Rowe, J. R. Statist. Soc. A 132, 235 (1969).
"""

import math
from collections.abc import Sequence

import numpy as np

from flagdeploy.errors import UsageError
from flagdeploy.evals.distributions import bisect, normal_cdf, normal_quantile

LOOKS = (1, 2, 4, 8, 16)  # repeats K at which a sequential comparison looks
_STEPS = 401  # grid points of an integral; enough for three decimals of a boundary
_REACH = 8.0  # standard deviations


def spent(information: float, alpha: float, spending: str) -> float:
    """One-sided alpha spent when `information` in (0, 1] of the plan is in.

    ``obrien-fleming`` spends almost nothing early, 2 - 2 Phi(z_{1-alpha/2} / sqrt(t));
    ``pocock`` about evenly, alpha ln(1 + (e - 1) t).
    """
    if spending == "obrien-fleming":
        return 2.0 * normal_cdf(-normal_quantile(1.0 - alpha / 2.0) / math.sqrt(information))
    if spending == "pocock":
        return alpha * math.log1p((math.e - 1.0) * information)
    raise UsageError(f"unknown alpha spending `{spending}`", hint="obrien-fleming or pocock")


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


_Points = np.ndarray[tuple[int], np.dtype[np.float64]]


def _edge(grid: _Points, mass: _Points, spread: float, due: float) -> float:
    """The value that the next step passes with probability `due`."""

    def excess(edge: float) -> float:
        beyond = (normal_cdf((x - edge) / spread) for x in grid)
        return float(np.dot(mass, list(beyond))) - due

    return bisect(excess, -_REACH, 2.0 * _REACH)
