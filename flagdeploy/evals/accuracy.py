"""Paired accuracy: the same questions on both sides, and what a margin makes of the difference."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from flagdeploy.evals.distributions import normal_cdf
from flagdeploy.evals.statistics import (
    Interval,
    mcnemar,
    needed_for_non_inferiority,
    tango,
    tango_z,
)
from flagdeploy.evals.verdict import KEPT, LEVEL, Finding, Verdict, failing


@dataclass(frozen=True)
class Pair:
    """One question on both sides; a score is 1.0 or 0.0, None for the candidate: no answer."""

    key: str
    task: str
    baseline: float
    candidate: float | None


def accuracy(pairs: Sequence[Pair], margins_pp: Mapping[str, float | None]) -> list[Finding]:
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
    return failing(findings)


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
