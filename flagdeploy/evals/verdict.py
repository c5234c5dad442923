"""From differences to a verdict: pure functions, every rule with its reason.

Each test asks one question against a margin fixed beforehand. PASS: the 90% interval (two
one-sided 5% tests) lies within the margin. FAIL: it lies beyond. Otherwise INCONCLUSIVE, with
the sample size that would decide. "No significant difference" is never a PASS.

Over all tests: any FAIL is FAIL; PASS needs every *required* test to pass; else INCONCLUSIVE.

- Parity, teacher-forced agreement and likelihood, and accuracy pooled over all benchmarks are
  required. The pool is the primary endpoint, named before the run: its questions are the sum of
  the benchmarks', so it can decide where each alone is too small. A single benchmark is
  secondary: it can fail the deployment (Holm-adjusted together with the pool) but, when merely
  too small to tell, does not withhold a PASS that the pool supports.
- Published totals have no items to pool fairly (one benchmark of 14 042 questions would drown
  one of 30), so there every row is required.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from flagdeploy.evals.distributions import fisher_exact, normal_cdf
from flagdeploy.evals.statistics import (
    Interval,
    Mean,
    clustered_mean,
    holm,
    mcnemar,
    needed_clusters,
    needed_for_non_inferiority,
    needed_unpaired,
    newcombe,
    tango,
    tango_z,
    unpaired_p,
    unpaired_se,
)
from flagdeploy.evals.tables import Row, Score
from flagdeploy.evals.teacher_forcing import Difference

ALPHA = 0.05
LEVEL = 1 - 2 * ALPHA
KEPT = 0.99  # share of the baseline's accuracy to keep: the rule of MLPerf Inference
KAPPA = 2.0  # how often its own noise floor a baseline may differ before that counts
FEWEST_SEQUENCES = 20  # below, a clustered standard error is not to be trusted

# Published numbers for one 8B model against its unquantized self: 8 bit 0.8% other top tokens,
# 5 bit 3.4%, 3 bit 10.4%; another kernel or BF16 for FP32 stays below 2%, another system prompt
# starts at 5%. Log perplexity moves by 0.0008, 0.007 and 0.064 for the same three.
TOP1_MARGIN = 0.05
NLL_MARGIN = 0.02
LENGTH_MARGIN = math.log(1.1)  # MLPerf Inference bounds tokens per sample to +-10%


class Verdict(StrEnum):
    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    INFO = "INFO"  # shown, not judged


@dataclass(frozen=True)
class Finding:
    """One test. `estimate`, `interval` and `margin` in `unit` (pp, nat, %); n items, clusters."""

    name: str
    verdict: Verdict
    sentence: str
    required: bool = False
    unit: str = ""
    estimate: float | None = None
    interval: Interval | None = None
    level: float | None = None
    n: int = 0
    clusters: int | None = None
    margin: float | None = None
    p: float | None = None
    needed_n: int | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Pair:
    """One question on both sides; a score is 1.0 or 0.0, None for the candidate: no answer."""

    key: str
    task: str
    baseline: float
    candidate: float | None


def overall(findings: Sequence[Finding]) -> Verdict:
    if any(finding.verdict is Verdict.FAIL for finding in findings):
        return Verdict.FAIL
    required = [finding for finding in findings if finding.required]
    if required and all(finding.verdict is Verdict.PASS for finding in required):
        return Verdict.PASS
    return Verdict.INCONCLUSIVE


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


# --- teacher forcing ---------------------------------------------------------------------------


def teacher_forced(
    differences: Sequence[Difference], missing: int, floor: dict[str, float]
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


# --- paired accuracy ---------------------------------------------------------------------------


def accuracy(pairs: Sequence[Pair], margins_pp: dict[str, float | None]) -> list[Finding]:
    """Non-inferiority of paired answers: pooled (required), then per benchmark.

    The pool's margin is the mean of its benchmarks' weighted by their questions, so the pool
    never allows more than they do together.
    """
    tasks = list(dict.fromkeys(pair.task for pair in pairs))
    groups = {task: [pair for pair in pairs if pair.task == task] for task in tasks}
    margins = {task: _margin(group, margins_pp.get(task)) for task, group in groups.items()}
    findings = []
    if len(tasks) != 1:
        weighted = math.fsum(margins[task] * len(group) for task, group in groups.items())
        margin = weighted / len(pairs) if pairs else 0.0
        findings.append(_paired("accuracy, all benchmarks", pairs, margin, required=True))
    findings += [
        _paired(f"accuracy, {task}", group, margins[task], required=len(tasks) == 1)
        for task, group in groups.items()
    ]
    return _failing(findings)


def _margin(pairs: Sequence[Pair], margin_pp: float | None) -> float:
    if margin_pp is not None:
        return margin_pp / 100.0
    return (1.0 - KEPT) * math.fsum(pair.baseline for pair in pairs) / len(pairs)


def discordance(pairs: Iterable[Pair], missing: float | None = None) -> tuple[int, int, int]:
    """(better, worse, n); a missing answer is left out, or scored `missing` when that is given."""
    counts: Counter[float] = Counter()
    for pair in pairs:
        candidate = missing if pair.candidate is None else pair.candidate
        if candidate is not None:
            counts[candidate - pair.baseline] += 1
    return counts[1.0], counts[-1.0], counts.total()


def _paired(name: str, pairs: Sequence[Pair], margin: float, required: bool) -> Finding:
    better, worse, n = discordance(pairs)
    missing = len(pairs) - n
    if n == 0 or margin <= 0.0:
        why = "no question was answered" if n == 0 else "the baseline answered nothing right"
        return Finding(name, Verdict.INCONCLUSIVE, why, required=required, n=n)
    interval = tango(better, worse, n, LEVEL)
    with_missing = discordance(pairs, missing=0.0)
    worst = tango(*with_missing, LEVEL) if missing else interval
    passed = interval.low > -margin and worst.low > -margin
    verdict = Verdict.PASS if passed else Verdict.INCONCLUSIVE
    base = math.fsum(pair.baseline for pair in pairs if pair.candidate is not None) / n
    lost = f"; {missing} without an answer" if missing else ""
    if missing and interval.low > -margin and not passed:
        lost += ", and counting those as wrong it would not pass"
    return Finding(
        name=name,
        verdict=verdict,
        sentence=(
            f"{base:.2%} at the baseline, {base + (better - worse) / n:.2%} here on {n} questions; "
            f"{better} right only here, {worse} right only there "
            f"(exact McNemar p = {mcnemar(better, worse):.3g}){lost}"
        ),
        required=required,
        unit="pp",
        estimate=100 * (better - worse) / n,
        interval=Interval(100 * interval.low, 100 * interval.high),
        level=LEVEL,
        n=n,
        clusters=n,
        margin=100 * margin,
        p=normal_cdf(tango_z(better, worse, n, -margin)),
        needed_n=None if passed else needed_for_non_inferiority(max(better + worse, 1) / n, margin),
    )


def _failing(findings: Sequence[Finding]) -> list[Finding]:
    """Turn INCONCLUSIVE into FAIL where the Holm-adjusted p of "beyond the margin" is below ALPHA.

    `p` then is that adjusted value.
    """
    tested = [index for index, finding in enumerate(findings) if finding.p is not None]
    adjusted = holm([findings[index].p or 0.0 for index in tested])
    judged = list(findings)
    for index, p in zip(tested, adjusted, strict=True):
        finding = replace(judged[index], p=p)
        if p < ALPHA:
            finding = replace(finding, verdict=Verdict.FAIL, needed_n=None)
        judged[index] = finding
    return judged


# --- output length -----------------------------------------------------------------------------


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


# --- published totals --------------------------------------------------------------------------


def aggregates(rows: Sequence[Row]) -> list[Finding]:
    """Unpaired non-inferiority of published scores: every row that can be judged is required.

    PASS by a one-sided z test of p_B > KEPT * p_A, interval by Newcombe at 95%. Clustering is
    unknown for totals.
    """
    return _failing([_aggregate(row) for row in rows])


def _aggregate(row: Row) -> Finding:
    a, b = row.baseline, row.candidate
    if a is None or b is None:
        side = "baseline" if a is None else "candidate"
        return Finding(row.task, Verdict.INFO, f"the {side} has no score")
    if a.n is None or b.n is None:
        return Finding(
            row.task,
            Verdict.INCONCLUSIVE,
            "nobody said how many questions were asked; give n",
            required=True,
            estimate=100 * (b.value - a.value),
            unit="pp",
        )
    return _counted(row.task, a, b, a.n, b.n)


def _counted(task: str, a: Score, b: Score, n_a: int, n_b: int) -> Finding:
    margin = (1 - KEPT) * a.value
    distance = b.value - KEPT * a.value
    se = unpaired_se(a.right, n_a, b.right, n_b, KEPT)
    z = distance / se if se else math.copysign(math.inf, distance)
    interval = newcombe(a.right, n_a, b.right, n_b)
    passed = normal_cdf(-z) < ALPHA
    doubt = "" if a.reproduced and b.reproduced else "; no whole number of right answers gives this"
    return Finding(
        name=task,
        verdict=Verdict.PASS if passed else Verdict.INCONCLUSIVE,
        sentence=(
            f"{a.value:.2%} against {b.value:.2%}, unpaired z test p = "
            f"{unpaired_p(a.right, n_a, b.right, n_b):.3f}, Fisher p = "
            f"{fisher_exact(a.right, n_a, b.right, n_b):.3f}, non-inferiority p = "
            f"{normal_cdf(-z):.3f}{doubt}"
        ),
        required=True,
        unit="pp",
        estimate=100 * (b.right / n_b - a.right / n_a),
        interval=Interval(100 * interval.low, 100 * interval.high),
        level=0.95,
        n=n_b,
        margin=100 * margin,
        p=normal_cdf(z),
        needed_n=None if passed else needed_unpaired(a.value, b.value, margin),
    )
