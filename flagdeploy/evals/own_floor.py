"""The candidate against itself: does it say the same twice, at another number of requests at once?

A baseline's own noise is stored in its bundle. A candidate far noisier than that, or one that now
and then changes a token it was sure of, has kernels whose result depends on timing or on what
lay in memory before: a race, an uninitialised buffer. No comparison of two models shows that.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from flagdeploy.evals.agreement import FEWEST_SEQUENCES, NOISE_MARGIN
from flagdeploy.evals.distributions import binomial_cdf
from flagdeploy.evals.divergence import FAR_SHARE, Parting, hazard
from flagdeploy.evals.noise_floor import Floor
from flagdeploy.evals.resampling import bootstrap
from flagdeploy.evals.statistics import Interval, Scale, ratio
from flagdeploy.evals.teacher_forcing import FAR, Difference
from flagdeploy.evals.verdict import LEVEL, Finding, Verdict

NAME = "candidate against itself"


def scored_twice(
    differences: Sequence[Difference], floor: Mapping[str, Any], concurrency: tuple[int, int]
) -> Finding:
    """DIFFERENT where the candidate is no deterministic model.

    Two tests, Bonferroni-adjusted for each other: its logit noise against itself exceeds the
    margin or KAPPA times the baseline's own `floor`; more than FAR_SHARE of the sequences change
    a token that it held FAR nats above the new one. NaN in one run alone is FAIL.
    """
    at = f"scored at {concurrency[0]} and at {concurrency[1]} requests at once"
    broken = sum(difference.not_finite for difference in differences)
    if broken:
        sentence = f"{at}, {broken} positions have NaN log-probabilities the second time"
        return Finding(NAME, Verdict.FAIL, sentence, n=broken)
    kl = [2.0 * d.kl * d.length for d in differences]
    weight = [d.impurity * d.length for d in differences]
    far = sum(d.far > 0.0 for d in differences)
    far_p = 1.0 - binomial_cdf(far - 1, len(differences), FAR_SHARE) if far else 1.0
    limit = Floor(floor, []).noise_limit(NOISE_MARGIN)
    moved = math.fsum(weight) > 1e-3  # else it is certain of every token, and nothing can
    square = ratio(kl, weight) if moved else None
    noise = math.sqrt(square.value) if square else 0.0
    p, interval = 1.0, Interval(0.0, 0.0)
    if square and len(differences) >= FEWEST_SEQUENCES:
        scale = Scale(square.value, square.se, square.clusters)
        p = scale.p_above(limit.value**2)
        interval = scale.interval(LEVEL).joined(bootstrap(kl, weight, LEVEL))
    edges = Interval(*(math.sqrt(max(0.0, edge)) for edge in (interval.low, interval.high)))
    enough = len(differences) >= FEWEST_SEQUENCES
    own = Floor(floor, []).value("logit_noise")
    return Finding(
        name=NAME,
        verdict=Verdict.PASS if enough and edges.high < limit.value else Verdict.INCONCLUSIVE,
        sentence=f"{at}, it differs from itself by an error of {noise:.2g} nat on every logit and "
        f"changes a token it held {FAR:.0f} nat above the new one in {far} of "
        f"{len(differences)} sequences{_cause(noise > limit.value or far_p < FAR_SHARE)}; "
        + limit.says(f"{NOISE_MARGIN:.3f} nat"),
        test="t test of the logarithm, clustered by sequence; exact binomial test of sure tokens",
        unit="nat",
        estimate=noise,
        interval=edges,
        level=LEVEL,
        n=sum(d.length for d in differences),
        clusters=len(differences),
        margin=limit.value,
        floor=own,
        ratio=noise / own if own else None,
        p=min(1.0, 2.0 * min(p, far_p)),
        alarm=Verdict.DIFFERENT,
    )


def _cause(noisy: bool) -> str:
    if not noisy:
        return ""
    return ", the mark of nondeterministic kernels (a race, uninitialised memory)"


def answered_twice(partings: Sequence[Parting], floor: float | None) -> Finding:
    """How soon its own greedy replies part, where nothing can be scored; shown, not judged.

    Without log-probabilities a parting at a near tie, which rounding explains, looks like any
    other.
    """
    rate, interval = hazard(partings)
    parted = sum(parting.parted for parting in partings)
    return Finding(
        name=NAME,
        verdict=Verdict.INFO,
        sentence=f"{parted} of {len(partings)} greedy replies part from its own first ones",
        test="partings per token, BCa bootstrap over prompts",
        unit="per 1000 tokens",
        estimate=1000 * rate,
        interval=interval.scaled(1000),
        level=LEVEL,
        n=round(math.fsum(parting.tokens for parting in partings)),
        clusters=len(partings),
        floor=None if floor is None else 1000 * floor,
        ratio=rate / floor if floor else None,
    )
