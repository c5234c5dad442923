"""Greedy replies side by side: after how many tokens do they part, and over what?

Only for temperature 0: sampled texts of two engines part at once, because a seed means something
else to each, so comparing them token by token says nothing. The sampling unit is the prompt; a
reply that never parts is censored at its end.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flagdeploy.evals.answers import Answer
from flagdeploy.evals.distributions import binomial_cdf
from flagdeploy.evals.resampling import bootstrap
from flagdeploy.evals.statistics import Interval, ratio
from flagdeploy.evals.teacher_forcing import FAR, NEAR, Position
from flagdeploy.evals.verdict import LEVEL, Finding, Verdict

FAR_SHARE = 0.01  # of prompts that may part where the baseline was sure; rounding alone gives none


@dataclass(frozen=True)
class Parting:
    """One prompt. `common` tokens agree, then the replies part (`parted`) or end together.

    `gap`: nats by which the baseline held its own best token likelier than the candidate's
    choice, None where unknown.
    """

    key: str
    common: int
    parted: bool
    gap: float | None = None

    @property
    def tokens(self) -> int:
        """Tokens at which the replies could have parted: those in common, and the first other."""
        return self.common + self.parted


def parting(
    key: str,
    baseline: Sequence[int],
    candidate: Sequence[int],
    *,
    cut: bool = False,
    positions: Sequence[Position] = (),
) -> Parting:
    """Compare two continuations of one prompt; `cut`: the shorter ended at its token limit.

    One that goes on where the other ended by itself parts there; where the other was cut, what
    would have followed is unknown. `positions` are the baseline's own scores.
    """
    shorter = min(len(baseline), len(candidate))
    pairs = zip(baseline, candidate, strict=False)
    common = next((index for index, (a, b) in enumerate(pairs) if a != b), shorter)
    if common == shorter and (cut or len(baseline) == len(candidate)):
        return Parting(key, common, parted=False)
    gap = None
    if common < min(len(candidate), len(positions)):
        gap = _gap(positions[common].top, candidate[common])
    return Parting(key, common, parted=True, gap=gap)


def partings(first: Sequence[Answer], second: Sequence[Answer]) -> list[Parting]:
    """Of the same questions answered twice, where the tokens of both replies are known."""
    return [
        parting(a.item, a.token_ids, b.token_ids, cut=b.status == "length")
        for a, b in zip(first, second, strict=True)
        if a.token_ids and b.token_ids
    ]


def _gap(top: Mapping[int, float], token: int) -> float:
    """Of a token outside the top k: at least what the least likely of them lies below the best."""
    best = max(top.values())
    return best - top.get(token, min(top.values()))


def survival(partings: Sequence[Parting]) -> list[tuple[int, float]]:
    """Kaplan and Meier's estimate (JASA 53, 457, 1958): (t, share still equal after t tokens).

    One point per length at which some reply parted; before the first the share is 1.
    """
    points, alive = [], 1.0
    for t in sorted({p.tokens for p in partings if p.parted}):
        at_risk = sum(p.tokens >= t for p in partings)
        events = sum(p.parted and p.tokens == t for p in partings)
        alive *= 1.0 - events / at_risk
        points.append((t, alive))
    return points


def hazard(partings: Sequence[Parting]) -> tuple[float, Interval]:
    """Partings per token with its BCa bootstrap interval over prompts.

    With none seen the upper edge is 1 - alpha^(1/tokens), for tokens of one prompt hardly depend
    on one another as long as none has parted.
    """
    events = [float(p.parted) for p in partings]
    tokens = [float(p.tokens) for p in partings]
    if not any(events):
        return 0.0, Interval(0.0, 1.0 - ((1.0 - LEVEL) / 2.0) ** (1.0 / max(1.0, sum(tokens))))
    interval = bootstrap(events, tokens, LEVEL)
    return ratio(events, tokens).value, Interval(max(0.0, interval.low), min(1.0, interval.high))


def divergence(partings: Sequence[Parting], floor: float | None = None) -> Finding:
    """How soon greedy replies part, beside the baseline's own `floor` (partings per token).

    An alarm only for partings beyond rounding: more than FAR_SHARE of the prompts part at a token
    that the baseline held FAR nats below its best (exact binomial test).
    """
    rate, interval = hazard(partings)
    known = [p.gap for p in partings if p.parted and p.gap is not None]
    near, far = sum(gap < NEAR for gap in known), sum(gap > FAR for gap in known)
    parted = sum(p.parted for p in partings)
    half = next((f", half after {t} tokens" for t, s in survival(partings) if s <= 0.5), "")
    kinds = f"; {near} at near ties under {NEAR} nat, {far} over {FAR:.0f} nat" if known else ""
    return Finding(
        name="greedy divergence",
        verdict=Verdict.INFO,
        sentence=f"{parted} of {len(partings)} greedy replies part from the baseline's{half}"
        f"{kinds}",
        test="partings per token, BCa bootstrap over prompts; exact binomial test of far ones",
        unit="per 1000 tokens",
        estimate=1000 * rate,
        interval=interval.scaled(1000),
        level=LEVEL,
        n=round(math.fsum(p.tokens for p in partings)),
        clusters=len(partings),
        floor=None if floor is None else 1000 * floor,
        ratio=rate / floor if floor else None,
        ratio_interval=interval.scaled(1.0 / floor) if floor else None,
        p=1.0 - binomial_cdf(far - 1, len(partings), FAR_SHARE) if far else 1.0,
        alarm=Verdict.DIFFERENT,
    )
