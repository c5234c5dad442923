"""Do replies come out as long? Equivalence of output lengths and of how many are cut."""

import math
from collections.abc import Hashable, Sequence

from flagdeploy.evals.proportions import mcnemar, paired
from flagdeploy.evals.resampling import skew_interval
from flagdeploy.evals.statistics import Interval, clustered_mean
from flagdeploy.evals.verdict import LEVEL, Finding, Verdict

FEWEST_REPLIES = 20
LENGTH_MARGIN = math.log(1.1)  # MLPerf Inference bounds tokens per sample to +-10%
CUT_MARGIN = 0.01  # of replies, either way


def output_length(tokens: Sequence[tuple[float, float]], level: float = LEVEL) -> Finding:
    """Mean log ratio of completion tokens (baseline, candidate), paired by question.

    Two one-sided tests against +-10%. Catches lost stop tokens, cut outputs and unchecked
    speculative tokens. Not required: it can show another model, not the same one.
    """
    name = "output length"
    ratios = [math.log(b / a) for a, b in tokens if a > 0 and b > 0]
    if len(ratios) < FEWEST_REPLIES:
        return Finding(name, Verdict.INFO, f"only {len(ratios)} replies report their length")
    mean = clustered_mean(ratios)
    interval = skew_interval(ratios, level=level)
    same = interval.inside(-LENGTH_MARGIN, LENGTH_MARGIN)
    away = [math.copysign(1.0, mean.value) * value for value in ratios]
    low, high = (100 * math.expm1(edge) for edge in (interval.low, interval.high))
    return Finding(
        name=name,
        verdict=Verdict.PASS if same else Verdict.INCONCLUSIVE,
        sentence=f"replies are {abs(math.expm1(mean.value)):.2%} "
        f"{'longer' if mean.value > 0 else 'shorter'} than the baseline's",
        test="two one-sided t tests and BCa bootstrap of the log ratio",
        unit="%",
        estimate=100 * math.expm1(mean.value),
        interval=Interval(low, high),
        level=level,
        n=len(ratios),
        clusters=mean.clusters,
        margin=10.0,
        p=min(1.0, 2 * clustered_mean(away).p_above(LENGTH_MARGIN)),
        alarm=Verdict.DIFFERENT,
    )


def truncation(
    cut: Sequence[tuple[bool, bool]],
    questions: Sequence[Hashable] | None = None,
    level: float = LEVEL,
) -> Finding:
    """Whether (baseline, candidate) replies ended at their token limit, paired by question.

    `questions` says which question each pair answers where one is asked more than once.

    A reply that was cut counts as wrong in the accuracy; here it shows as what it is.
    """
    name = "truncated replies"
    if not cut:
        return Finding(name, Verdict.INFO, "no question was answered")
    found = paired([float(b) - float(a) for a, b in cut], questions)
    interval = found.interval(level)
    same = interval.inside(-CUT_MARGIN, CUT_MARGIN)
    only_b = sum(b and not a for a, b in cut)
    only_a = sum(a and not b for a, b in cut)
    n = len(cut)
    beyond = min(found.p_above(CUT_MARGIN), found.p_below(-CUT_MARGIN))
    return Finding(
        name=name,
        verdict=Verdict.PASS if same else Verdict.INCONCLUSIVE,
        sentence=f"{sum(a for a, _ in cut)} of {n} replies are cut at the baseline, "
        f"{sum(b for _, b in cut)} here; {only_b} only here, {only_a} only there "
        f"(exact McNemar p = {mcnemar(only_b, only_a):.3g})",
        test="equivalence by Tango's score interval",
        unit="pp",
        estimate=100 * found.estimate,
        interval=interval.scaled(100),
        level=level,
        n=n,
        margin=100 * CUT_MARGIN,
        p=min(1.0, 2 * beyond),
        alarm=Verdict.DIFFERENT,
    )
