"""The baseline against itself: what differs between two runs of one deployment.

A bundle that was recorded more than once stores the largest difference of any repeat from the
first run, and where known each sequence's own. A candidate is allowed KAPPA times as much where
that is more than the margin: it cannot be asked to be nearer to the baseline than the baseline.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flagdeploy.evals.divergence import Parting, hazard
from flagdeploy.evals.resampling import bootstrap
from flagdeploy.evals.statistics import Interval, clustered_mean, ratio
from flagdeploy.evals.teacher_forcing import Difference
from flagdeploy.evals.verdict import LEVEL, Finding

KAPPA = 2.0  # how often its own noise floor a baseline may differ before that counts


def distance(
    scores: Sequence[tuple[float | None, float | None]],
    differences: Sequence[Difference],
    partings: Sequence[Parting],
) -> dict[str, Any]:
    """How far one run of the baseline is from another: what `Floor` reads.

    `scores` of every question in both runs; `differences` of the scored sequences and `partings`
    of the greedy replies may be empty.
    """
    row: dict[str, Any] = {"discordant": sum(a != b for a, b in scores) / len(scores)}
    if differences:
        row["top1"] = clustered_mean([1 - d.top1 for d in differences]).value
        row["delta_nll"] = abs(clustered_mean([d.delta_nll for d in differences]).value)
        row["kl"] = clustered_mean([d.kl for d in differences]).value
        row["logit_noise"] = logit_noise(differences)
        row["sequences"] = {d.key: {"top1": 1 - d.top1, "kl": d.kl} for d in differences}
    if partings:
        row["divergence"] = hazard(partings)[0]
    return row


def logit_noise(differences: Sequence[Difference]) -> float:
    """Nats; 0 where the model is certain of everything. See `agreement` for the formula."""
    weight = [d.impurity * d.length for d in differences]
    if not math.fsum(weight):
        return 0.0
    return math.sqrt(ratio([2 * d.kl * d.length for d in differences], weight).value)


def largest(repeats: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The largest of every figure over the repeats, six decimals; sequences only where not 0."""
    worst: dict[str, Any] = {
        key: round(max(row[key] for row in repeats), 6) for key in repeats[0] if key != "sequences"
    }
    sequences: dict[str, dict[str, float]] = {}
    for row in repeats:
        for key, figures in row.get("sequences", {}).items():
            known = sequences.setdefault(key, dict.fromkeys(figures, 0.0))
            known.update({name: max(known[name], round(x, 6)) for name, x in figures.items()})
    if any(value for figures in sequences.values() for value in figures.values()):
        worst["sequences"] = sequences
    return worst


@dataclass(frozen=True)
class Limit:
    """The larger of a margin and KAPPA times the floor; `floors` of each sequence where known."""

    value: float
    from_floor: bool = False
    floors: tuple[float, ...] = ()

    def says(self, margin: str) -> str:
        if self.from_floor:
            return f"{KAPPA:.0f} times the baseline's own noise is allowed"
        return f"{margin} is allowed"

    def excess(self, values: Sequence[float], margin: float) -> list[float]:
        """By how much each sequence exceeds the limit, against its own floor where it has one."""
        if self.from_floor and self.floors:
            return [x - KAPPA * f for x, f in zip(values, self.floors, strict=True)]
        return [x - self.value for x in values]


class Floor:
    """A bundle's `noise_floor` seen for the sequences `keys`, in their order.

    Its figures are means over all sequences (``top1``, ``delta_nll``, ``kl``, ``logit_noise``);
    ``sequences`` holds the same per key.
    """

    def __init__(self, data: Mapping[str, Any], keys: Sequence[str]) -> None:
        self.data = data
        self.rows: list[Mapping[str, float]] = []
        sequences = data.get("sequences") or {}
        if sequences and all(key in sequences for key in keys):
            self.rows = [sequences[key] for key in keys]

    def value(self, key: str) -> float | None:
        found = self.data.get(key)
        return None if found is None else float(found)

    def each(self, key: str) -> tuple[float, ...]:
        return tuple(float(row[key]) for row in self.rows if key in row)

    def limit(self, key: str, margin: float) -> Limit:
        allowed = KAPPA * (self.value(key) or 0.0)
        if allowed <= margin:
            return Limit(margin)
        return Limit(allowed, from_floor=True, floors=self.each(key))

    def noise_limit(self, margin: float) -> Limit:
        allowed = KAPPA * (self.value("logit_noise") or 0.0)
        return Limit(allowed, from_floor=True) if allowed > margin else Limit(margin)


def beside(
    finding: Finding,
    floor: Floor,
    key: str,
    values: Sequence[float],
    weights: Sequence[float] | None = None,
    *,
    scale: float = 1.0,
    root: bool = False,
) -> Finding:
    """`finding` with its floor, the ratio to it, and that ratio's interval over the sequences.

    Where each sequence's own floor is known both are drawn together, so what makes a sequence
    noisy on both sides cancels; else the floor counts as exact. No ratio to a floor of 0: a
    baseline that repeats itself to the bit makes everything infinitely far.
    """
    known = floor.value(key) if key else None
    if known is None:
        return finding
    finding = replace(finding, floor=scale * known)
    if known <= 0.0 or finding.estimate is None:
        return finding
    own = floor.each(key)
    if own and weights is None and math.fsum(own) > 0.0:
        low_high = bootstrap(values, own, LEVEL)
        return replace(finding, ratio=math.fsum(values) / math.fsum(own), ratio_interval=low_high)
    divisor = known**2 if root else known
    drawn = bootstrap(values, weights, LEVEL).scaled(1.0 / divisor)
    estimate = abs(finding.estimate) / (scale * known)
    if root:
        drawn = Interval(*(math.sqrt(max(0.0, edge)) for edge in (drawn.low, drawn.high)))
    return replace(finding, ratio=estimate, ratio_interval=drawn)
