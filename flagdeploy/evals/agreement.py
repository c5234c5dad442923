"""Do both endpoints see, predict and write the same tokens? Parity, teacher forcing, length."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from flagdeploy.evals.statistics import Interval, Mean, clustered_mean, needed_clusters
from flagdeploy.evals.teacher_forcing import Difference
from flagdeploy.evals.verdict import ALPHA, LEVEL, Finding, Verdict

KAPPA = 2.0  # how often its own noise floor a baseline may differ before that counts
FEWEST_SEQUENCES = 20  # below, a clustered standard error is not to be trusted

# Published numbers for one 8B model against its unquantized self: 8 bit 0.8% other top tokens,
# 5 bit 3.4%, 3 bit 10.4%; another kernel or BF16 for FP32 stays below 2%, another system prompt
# starts at 5%. Log perplexity moves by 0.0008, 0.007 and 0.064 for the same three.
TOP1_MARGIN = 0.05
NLL_MARGIN = 0.02
LENGTH_MARGIN = math.log(1.1)  # MLPerf Inference bounds tokens per sample to +-10%


def parity(differences: Sequence[str], n: int) -> Finding:
    """Required, exact: one prompt tokenized otherwise is another template or tokenizer."""
    if differences:
        sentence = (
            f"{len(differences)} of {n} prompts are tokenized differently, so chat template, "
            f"tokenizer or system prompt differ: {differences[0]}"
        )
        return Finding("parity", Verdict.FAIL, sentence, required=True, n=n)
    sentence = f"all {n} prompts become the same tokens"
    return Finding("parity", Verdict.PASS, sentence, required=True, n=n)


def teacher_forced(
    differences: Sequence[Difference], missing: int, floor: Mapping[str, Any]
) -> list[Finding]:
    """Top-1 agreement and mean log-likelihood difference, clustered by sequence.

    `missing` sequences could not be scored; a PASS must hold with each of them counted as wholly
    different. `floor` is the baseline against itself and widens a margin to KAPPA times it.
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
    positions = sum(difference.length for difference in differences)
    return [
        _top1(differences, missing, max(TOP1_MARGIN, KAPPA * floor.get("top1", 0.0)), positions),
        _nll(differences, missing, max(NLL_MARGIN, KAPPA * floor.get("delta_nll", 0.0)), positions),
        _shown("top-5 containment", [d.top5 for d in differences], positions),
        _shown("lumped top-k KL divergence", [d.kl for d in differences], positions, "nat"),
    ]


def _top1(
    differences: Sequence[Difference], missing: int, margin: float, positions: int
) -> Finding:
    values = [1.0 - difference.top1 for difference in differences]
    mean = clustered_mean(values)
    interval = share_interval(mean)
    worst = share_interval(clustered_mean(values + [1.0] * missing)) if missing else interval
    verdict, needed = _judge(mean, interval, worst, -math.inf, margin)
    return Finding(
        name="teacher-forced top-1 disagreement",
        verdict=verdict,
        sentence=_says(
            verdict,
            f"the most likely token differs at {mean.value:.2%} of {positions} positions",
            f"{margin:.1%}",
            missing,
        ),
        required=True,
        unit="pp",
        estimate=100 * mean.value,
        interval=Interval(100 * interval.low, 100 * interval.high),
        level=LEVEL,
        n=positions,
        clusters=mean.clusters,
        margin=100 * margin,
        needed_n=needed,
    )


def _nll(differences: Sequence[Difference], missing: int, margin: float, positions: int) -> Finding:
    values = [difference.delta_nll for difference in differences]
    mean = clustered_mean(values)
    interval = mean.interval(LEVEL)
    # What a lost sequence would have scored is unknown: count it ten margins off.
    worst = (
        clustered_mean(values + [10 * margin] * missing).interval(LEVEL) if missing else interval
    )
    verdict, needed = _judge(mean, interval, worst, -margin, margin)
    return Finding(
        name="teacher-forced log-likelihood difference",
        verdict=verdict,
        sentence=_says(
            verdict,
            f"the baseline's tokens are {abs(mean.value):.4f} nat "
            f"{'less' if mean.value > 0 else 'more'} likely on average",
            f"{margin:.3f} nat",
            missing,
        ),
        required=True,
        unit="nat",
        estimate=mean.value,
        interval=interval,
        level=LEVEL,
        n=positions,
        clusters=mean.clusters,
        margin=margin,
        needed_n=needed,
    )


def share_interval(mean: Mean) -> Interval:
    """Interval of a mean share over clusters, never narrower than the data allow.

    With nothing seen the t interval is a point. Then the share of clusters that hold anything is
    at most 1 - alpha^(1/C) (Clopper and Pearson), and so is the mean share: 4.6% for 64 clusters.
    """
    if mean.value == 0.0:
        return Interval(0.0, 1.0 - ALPHA ** (1.0 / mean.clusters))
    interval = mean.interval(LEVEL)
    return Interval(max(0.0, interval.low), min(1.0, interval.high))


def _judge(
    mean: Mean, interval: Interval, worst: Interval, low: float, high: float
) -> tuple[Verdict, int | None]:
    """Verdict of an interval against (low, high), and the clusters that would decide."""
    if mean.clusters < FEWEST_SEQUENCES:
        return Verdict.INCONCLUSIVE, FEWEST_SEQUENCES
    if interval.low > high or interval.high < low:
        return Verdict.FAIL, None
    if all(low < one.low and one.high < high for one in (interval, worst)):
        return Verdict.PASS, None
    room = min(abs(high - mean.value), abs(mean.value - low))
    return Verdict.INCONCLUSIVE, needed_clusters(mean, room) if room and mean.se else None


def _says(verdict: Verdict, fact: str, margin: str, missing: int) -> str:
    place = {
        Verdict.PASS: f"within the margin of {margin}",
        Verdict.FAIL: f"beyond the margin of {margin}",
    }.get(verdict, f"not decided against the margin of {margin}")
    lost = f"; {missing} sequences could not be scored" if missing else ""
    return f"{fact}, {place}{lost}"


def _shown(name: str, values: Sequence[float], n: int, unit: str = "%") -> Finding:
    mean = clustered_mean(values)
    scale = 100.0 if unit == "%" else 1.0
    interval = mean.interval(LEVEL)
    return Finding(
        name=name,
        verdict=Verdict.INFO,
        sentence=f"{name} is {scale * mean.value:.4g} {unit}",
        unit=unit,
        estimate=scale * mean.value,
        interval=Interval(scale * interval.low, scale * interval.high),
        level=LEVEL,
        n=n,
        clusters=mean.clusters,
    )


def output_length(tokens: Sequence[tuple[int, int]]) -> Finding:
    """Mean log ratio of completion tokens (baseline, candidate), paired by question.

    Catches lost stop tokens, cut outputs and unchecked speculative tokens. Not required: it can
    fail a deployment, not pass one.
    """
    name = "output length"
    ratios = [math.log(b / a) for a, b in tokens if a > 0 and b > 0]
    if len(ratios) < FEWEST_SEQUENCES:
        return Finding(name, Verdict.INFO, f"only {len(ratios)} replies report their length")
    mean = clustered_mean(ratios)
    interval = mean.interval(LEVEL)
    verdict, _ = _judge(mean, interval, interval, -LENGTH_MARGIN, LENGTH_MARGIN)
    low, high = (100 * math.expm1(edge) for edge in (interval.low, interval.high))
    return Finding(
        name=name,
        verdict=verdict,
        sentence=f"replies are {abs(math.expm1(mean.value)):.2%} "
        f"{'longer' if mean.value > 0 else 'shorter'} than the baseline's",
        unit="%",
        estimate=100 * math.expm1(mean.value),
        interval=Interval(low, high),
        level=LEVEL,
        n=len(ratios),
        clusters=mean.clusters,
        margin=10.0,
    )
