"""Do both endpoints see and predict the same tokens? Parity and teacher forcing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from flagdeploy.evals.noise_floor import Floor, beside
from flagdeploy.evals.power import needed_clusters
from flagdeploy.evals.resampling import bootstrap, skew_interval
from flagdeploy.evals.statistics import Interval, Mean, Scale, clustered_mean, ratio
from flagdeploy.evals.teacher_forcing import FAR, NEAR, Difference
from flagdeploy.evals.verdict import ALPHA, LEVEL, Finding, Verdict

FEWEST_SEQUENCES = 20  # below, a clustered standard error is not to be trusted

# Published numbers for one 8B model against its unquantized self: 8 bit 0.8% other top tokens,
# 5 bit 3.4%, 3 bit 10.4%; another kernel or BF16 for FP32 stays below 2%, another system prompt
# starts at 5%. Log perplexity moves by 0.0008, 0.007 and 0.064 for the same three.
TOP1_MARGIN = 0.05
NLL_MARGIN = 0.02
# The same three as logit noise: 0.03, 0.14 and 0.5 nat. The small DeepSeek-R1 of examples/, whose
# KL divergences are fifty times smaller because it is certain of most tokens: BF16 0.05 to 0.07
# over one to eight ranks, with an FP8 latent cache 0.075, 8 bit 0.05, 6 bit 0.15, one routed
# expert more 0.24, 4 bit 0.5 to 0.6, one expert damaged 2.7. An eighth is the spacing of BF16
# between 16 and 32, where large logits lie.
NOISE_MARGIN = 0.125


def parity(differences: Sequence[str], n: int) -> Finding:
    """Required, exact: one prompt tokenized otherwise is another template or tokenizer."""
    test = "exact comparison of prompt tokens"
    if differences:
        sentence = (
            f"{len(differences)} of {n} prompts are tokenized differently, so chat template, "
            f"tokenizer or system prompt differ: {differences[0]}"
        )
        return Finding("parity", Verdict.FAIL, sentence, required=True, test=test, n=n)
    sentence = f"all {n} prompts become the same tokens"
    return Finding("parity", Verdict.PASS, sentence, required=True, test=test, n=n)


def teacher_forced(
    differences: Sequence[Difference], missing: int, floor: Mapping[str, Any]
) -> list[Finding]:
    """Top-1 agreement, mean log-likelihood difference and logit noise, clustered by sequence.

    Each against its margin or, where that is more, KAPPA times what the baseline differs from
    itself (`floor`, the noise floor of its bundle). `missing` sequences could not be scored; a
    PASS must hold with each of them counted as wholly different.
    """
    if not differences:
        name = "teacher-forced top-1 disagreement"
        sentence = f"none of {missing} sequences could be scored"
        return [Finding(name, Verdict.INCONCLUSIVE, sentence, required=True)]
    broken = sum(difference.not_finite for difference in differences)
    if broken:
        sentence = f"{broken} scored positions have NaN log-probabilities"
        return [
            Finding("finite log-probabilities", Verdict.FAIL, sentence, required=True, n=broken)
        ]
    known = Floor(floor, [difference.key for difference in differences])
    findings = [
        _top1(differences, missing, known),
        _nll(differences, missing, known),
        _noise(differences, missing, known),
        _shown("top-5 containment", [d.top5 for d in differences], known),
        _shown("lumped top-k KL divergence", [d.kl for d in differences], known, "nat", "kl"),
    ]
    positions = sum(difference.length for difference in differences)
    return [replace(finding, n=positions) for finding in findings]


def _top1(differences: Sequence[Difference], missing: int, floor: Floor) -> Finding:
    values = [1.0 - difference.top1 for difference in differences]
    mean = clustered_mean(values)
    limit = floor.limit("top1", TOP1_MARGIN)
    interval = share_interval(values)
    worst = share_interval(values + [1.0] * missing) if missing else interval
    verdict, needed = _judge(mean, interval, worst, -math.inf, limit.value)
    positions = sum(d.length for d in differences)
    changed = round(math.fsum((1.0 - d.top1) * d.length for d in differences))
    near = round(math.fsum(d.near * d.length for d in differences))
    far = round(math.fsum(d.far * d.length for d in differences))
    kinds = f" ({near} near ties under {NEAR} nat, {far} over {FAR:.0f} nat)" if changed else ""
    finding = Finding(
        name="teacher-forced top-1 disagreement",
        verdict=verdict,
        sentence=f"the most likely token differs at {changed} of {positions} positions{kinds}; "
        + limit.says(f"{TOP1_MARGIN:.1%}")
        + _lost(missing),
        required=True,
        test="t test and BCa bootstrap, clustered by sequence",
        unit="pp",
        estimate=100 * mean.value,
        interval=interval.scaled(100),
        level=LEVEL,
        clusters=mean.clusters,
        margin=100 * limit.value,
        p=_p_above(limit.excess(values, TOP1_MARGIN)),
        alarm=Verdict.DIFFERENT,
        needed_n=needed,
    )
    return beside(finding, floor, "top1", values, scale=100)


def _nll(differences: Sequence[Difference], missing: int, floor: Floor) -> Finding:
    values = [difference.delta_nll for difference in differences]
    mean = clustered_mean(values)
    limit = floor.limit("delta_nll", NLL_MARGIN)
    interval = skew_interval(values, level=LEVEL)
    # What a lost sequence would have scored is unknown: count it ten margins off.
    lost = [10 * limit.value] * missing
    worst = clustered_mean(values + lost).interval(LEVEL) if missing else interval
    verdict, needed = _judge(mean, interval, worst, -limit.value, limit.value)
    away = [math.copysign(1.0, mean.value) * value for value in values]
    finding = Finding(
        name="teacher-forced log-likelihood difference",
        verdict=verdict,
        sentence=f"the baseline's tokens are {abs(mean.value):.2g} nat "
        f"{'less' if mean.value > 0 else 'more'} likely on average; "
        + limit.says(f"{NLL_MARGIN:.3f} nat")
        + _lost(missing),
        required=True,
        test="two one-sided t tests and BCa bootstrap, clustered by sequence",
        unit="nat",
        estimate=mean.value,
        interval=interval,
        level=LEVEL,
        clusters=mean.clusters,
        margin=limit.value,
        p=min(1.0, 2 * _p_above(limit.excess(away, NLL_MARGIN))),
        alarm=Verdict.DIFFERENT,
        needed_n=needed,
    )
    return beside(finding, floor, "delta_nll", away)


def _noise(differences: Sequence[Difference], missing: int, floor: Floor) -> Finding:
    """KL divergence in units that do not depend on how certain the model is.

    An error of variance s^2 on every logit gives KL = s^2/2 (1 - sum p^2) to second order (the
    Fisher information of a softmax is diag(p) - p p^T), so s = sqrt(2 sum KL / sum impurity).
    Squares scatter in proportion to themselves, so the t test is one of logarithms: resampled
    from measured variants moved onto the margin it alarms in 2 to 7% at a nominal 5%, where one
    of the squares themselves does in 1 to 9% and misses most of what lies a little beyond.
    """
    name = "teacher-forced logit noise"
    kl = [2.0 * difference.kl * difference.length for difference in differences]
    weight = [difference.impurity * difference.length for difference in differences]
    if math.fsum(weight) <= 1e-3:
        sentence = "the baseline is certain of every token, so nothing can move"
        return Finding(name, Verdict.INFO, sentence)
    square = _scale(kl, weight)
    limit = floor.noise_limit(NOISE_MARGIN)
    interval = square.interval(LEVEL).joined(bootstrap(kl, weight, LEVEL))
    lost = (10 * limit.value) ** 2 * max(weight)
    with_lost = _scale(kl + [lost] * missing, weight + [max(weight)] * missing)
    worst = with_lost.interval(LEVEL) if missing else interval
    verdict, needed = _judge(square, interval, worst, -math.inf, limit.value**2)
    finding = Finding(
        name=name,
        verdict=verdict,
        sentence="the KL divergence is that of a random error of "
        f"{math.sqrt(square.value):.2g} nat on every logit; "
        + limit.says(f"{NOISE_MARGIN:.3f} nat")
        + _lost(missing),
        required=True,
        test="t test of the logarithm and BCa bootstrap, clustered by sequence",
        unit="nat",
        estimate=math.sqrt(square.value),
        interval=Interval(*(math.sqrt(max(0.0, edge)) for edge in (interval.low, interval.high))),
        level=LEVEL,
        clusters=square.clusters,
        margin=limit.value,
        p=square.p_above(limit.value**2) if square.clusters >= FEWEST_SEQUENCES else 1.0,
        alarm=Verdict.DIFFERENT,
        needed_n=needed,
    )
    return beside(finding, floor, "logit_noise", kl, weight, root=True)


def _scale(squares: Sequence[float], weights: Sequence[float]) -> Scale:
    mean = ratio(squares, weights)
    return Scale(mean.value, mean.se, mean.clusters)


def _p_above(excess: Sequence[float]) -> float:
    """p of "on average at most 0"; 1 for too few sequences, of which nothing is said."""
    mean = clustered_mean(excess)
    return mean.p_above() if mean.clusters >= FEWEST_SEQUENCES else 1.0


def share_interval(values: Sequence[float]) -> Interval:
    """Interval of a mean share over sequences, never narrower than the data allow.

    With nothing seen the t interval is a point. Then the share of sequences that hold anything is
    at most 1 - alpha^(1/C) (Clopper and Pearson), and so is the mean share: 4.6% for 64 of them.
    Otherwise that of t and the BCa bootstrap together: shares are skew, t is too low on top.
    """
    mean = clustered_mean(values)
    if mean.value == 0.0:
        return Interval(0.0, 1.0 - ALPHA ** (1.0 / mean.clusters))
    interval = skew_interval(values, level=LEVEL)
    return Interval(max(0.0, interval.low), min(1.0, interval.high))


def _judge(
    mean: Mean, interval: Interval, worst: Interval, low: float, high: float
) -> tuple[Verdict, int | None]:
    """PASS within (low, high), else INCONCLUSIVE with the clusters that would decide."""
    if mean.clusters < FEWEST_SEQUENCES:
        return Verdict.INCONCLUSIVE, FEWEST_SEQUENCES
    if interval.inside(low, high) and worst.inside(low, high):
        return Verdict.PASS, None
    room = min(abs(high - mean.value), abs(mean.value - low))
    return Verdict.INCONCLUSIVE, needed_clusters(mean, room) if room and mean.se else None


def _lost(missing: int) -> str:
    return f"; {missing} sequences could not be scored" if missing else ""


def _shown(
    name: str, values: Sequence[float], floor: Floor, unit: str = "%", key: str = ""
) -> Finding:
    mean = clustered_mean(values)
    scale = 100.0 if unit == "%" else 1.0
    finding = Finding(
        name=name,
        verdict=Verdict.INFO,
        sentence=f"{name} is {scale * mean.value:.4g} {unit}",
        test="t interval, clustered by sequence",
        unit=unit,
        estimate=scale * mean.value,
        interval=mean.interval(LEVEL).scaled(scale),
        level=LEVEL,
        clusters=mean.clusters,
    )
    return beside(finding, floor, key, values, scale=scale)
