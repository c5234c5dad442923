"""Paired accuracy: the same questions on both sides, and what a margin makes of the difference."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flagdeploy.evals.power import needed_for_non_inferiority
from flagdeploy.evals.proportions import (
    FEWEST_CLUSTERS,
    Paired,
    mcnemar,
    mcnemar_mid_p,
    paired,
)
from flagdeploy.evals.resampling import sign_flip_p
from flagdeploy.evals.verdict import ALPHA, KEPT, LEVEL, Finding, Verdict


@dataclass(frozen=True)
class Pair:
    """One question on both sides, its score in [0, 1] the mean over `repeats` answers each.

    `candidate` is None when no answer came. Questions of one `cluster` (the subject) share their
    luck; empty: the question is its own.
    """

    key: str
    task: str
    baseline: float
    candidate: float | None
    cluster: str = ""
    repeats: int = 1


def accuracy(
    pairs: Sequence[Pair],
    margins_pp: Mapping[str, float | None],
    floor: float | None = None,
    level: float = LEVEL,
) -> list[Finding]:
    """Non-inferiority of paired answers: pooled (required), then per benchmark; then flips.

    The pool's margin is the mean of its benchmarks' weighted by their questions, so the pool
    never allows more than they do together. `floor` is the share of questions whose score differs
    between two runs of the baseline, `level` that of the intervals.
    """
    tasks = list(dict.fromkeys(pair.task for pair in pairs))
    groups = {task: [pair for pair in pairs if pair.task == task] for task in tasks}
    margins = {task: _margin(group, margins_pp.get(task)) for task, group in groups.items()}
    weighted = math.fsum(margins[task] * len(group) for task, group in groups.items())
    margin = weighted / len(pairs) if pairs else 0.0
    findings = []
    if len(tasks) != 1:
        findings.append(_paired("accuracy, all benchmarks", pairs, margin, level, required=True))
    findings += [
        _paired(f"accuracy, {task}", group, margins[task], level, required=len(tasks) == 1)
        for task, group in groups.items()
    ]
    return [*findings, _flips(pairs, margin, floor, level)]


def _margin(pairs: Sequence[Pair], margin_pp: float | None) -> float:
    if margin_pp is not None:
        return margin_pp / 100.0
    return (1.0 - KEPT) * math.fsum(pair.baseline for pair in pairs) / len(pairs)


def _answered(pairs: Sequence[Pair], missing: float | None = None) -> list[tuple[Pair, float]]:
    """Each pair with its score difference; a missing answer is left out, or scored `missing`."""
    scored = [(p, missing if p.candidate is None else p.candidate) for p in pairs]
    return [(pair, score - pair.baseline) for pair, score in scored if score is not None]


def _discordance(rows: Sequence[tuple[Pair, float]]) -> Paired:
    # A benchmark of few subjects says nothing about how subjects vary: there questions count.
    subjects: dict[str, set[str]] = {}
    for pair, _ in rows:
        subjects.setdefault(pair.task, set()).add(pair.cluster)
    clusters = [
        (pair.task, pair.cluster)
        if pair.cluster and len(subjects[pair.task]) >= FEWEST_CLUSTERS
        else (pair.task, pair.cluster, pair.key)
        for pair, _ in rows
    ]
    repeats = min(pair.repeats for pair, _ in rows)
    return paired([difference for _, difference in rows], clusters, repeats)


def _paired(
    name: str, pairs: Sequence[Pair], margin: float, level: float, required: bool
) -> Finding:
    rows = _answered(pairs)
    n, missing = len(rows), len(pairs) - len(rows)
    if n == 0 or margin <= 0.0:
        why = "no question was answered" if n == 0 else "the baseline answered nothing right"
        return Finding(name, Verdict.INCONCLUSIVE, why, required=required, n=n)
    found = _discordance(rows)
    interval = found.interval(level)
    worst = _discordance(_answered(pairs, missing=0.0)).interval(level) if missing else interval
    passed = min(interval.low, worst.low) > -margin
    needed = _needed(found, n, margin)
    repeats = min(pair.repeats for pair, _ in rows)
    base = math.fsum(pair.baseline for pair, _ in rows) / n
    return Finding(
        name=name,
        verdict=Verdict.PASS if passed else Verdict.INCONCLUSIVE,
        sentence=_sentence(rows, found, margin) + _lost(missing, interval.low > -margin, passed),
        required=required,
        test="non-inferiority by Tango's score interval"
        + (", with the variance of the means of each question" if repeats > 1 else ""),
        unit="pp",
        estimate=100 * found.estimate,
        interval=interval.scaled(100),
        level=level,
        n=n,
        clusters=found.clusters or n,
        margin=100 * margin,
        p=found.p_below(-margin),
        needed_n=None if passed else needed,
        needed_repeats=None if passed else math.ceil(repeats * needed / n),
        baseline=100 * base,
        candidate=100 * (base + found.estimate),
    )


def _needed(found: Paired, n: int, margin: float) -> int:
    """Questions that would decide, at the discordance and the design effect seen here."""
    discordance = max(found.better + found.worse, 1.0) / found.n
    return math.ceil(needed_for_non_inferiority(discordance, margin) * n / found.n)


def _sentence(rows: Sequence[tuple[Pair, float]], found: Paired, margin: float) -> str:
    n = len(rows)
    base = math.fsum(pair.baseline for pair, _ in rows) / n
    better = sum(difference > 0 for _, difference in rows)
    worse = sum(difference < 0 for _, difference in rows)
    repeats = min(pair.repeats for pair, _ in rows)
    asked = f"{n} questions" if repeats == 1 else f"{n} questions asked {repeats} times"
    asked += _groups(rows, found)
    right = ("right only here", "right only there") if repeats == 1 else ("better", "worse here")
    return (
        f"{base:.2%} at the baseline, {base + found.estimate:.2%} here on {asked}; "
        f"{better} {right[0]}, {worse} {right[1]} ({_test(rows)[0]}); "
        f"non-inferiority p = {found.p_above(-margin):.3g} at {100 * margin:.2f} points"
    )


def _groups(rows: Sequence[tuple[Pair, float]], found: Paired) -> str:
    subjects = {pair.cluster for pair, _ in rows if pair.cluster}
    if found.clusters:
        alone = any(not pair.cluster for pair, _ in rows)
        return f" in {found.clusters} {'independent groups' if alone else 'subjects'}"
    if subjects:
        return f" ({len(subjects)} subjects, too few to tell how subjects vary)"
    return ""


def _lost(missing: int, would_pass: bool, passed: bool) -> str:
    if not missing:
        return ""
    but = ", and counting those as wrong it would not pass" if would_pass and not passed else ""
    return f"; {missing} without an answer{but}"


def _test(rows: Sequence[tuple[Pair, float]]) -> tuple[str, float]:
    """The test of "neither side is better" that fits: words for it, and its p."""
    clusters: dict[tuple[str, str], float] = {}
    for pair, difference in rows:
        key = (pair.task, pair.cluster or pair.key)
        clusters[key] = clusters.get(key, 0.0) + difference
    if len(clusters) < FEWEST_CLUSTERS or len(clusters) == len(rows):
        clusters = {(pair.task, pair.key): difference for pair, difference in rows}
    values = list(clusters.values())
    if len(clusters) < len(rows) or any(value not in (-1.0, 0.0, 1.0) for value in values):
        p = sign_flip_p(values)
        return f"sign-flip permutation p = {p:.3g}", p
    better, worse = values.count(1.0), values.count(-1.0)
    p = mcnemar(better, worse)
    return f"exact McNemar p = {p:.3g}, mid-p {mcnemar_mid_p(better, worse):.3g}", p


def _flips(pairs: Sequence[Pair], margin: float, floor: float | None, level: float) -> Finding:
    """Answers that changed, and whether more one way: DIFFERENT unless that is within the margin.

    Equal scores can hide many flips (arXiv 2407.09141), so their share is shown beside the
    baseline's own.
    """
    rows = _answered(pairs)
    name = "answer flips"
    if not rows:
        return Finding(name, Verdict.INFO, "no question was answered")
    changed = sum(difference != 0.0 for _, difference in rows)
    words, p = _test(rows)
    interval = _discordance(rows).interval(level)
    within = interval.inside(-margin, margin)
    seen = "detectable, but within the margin: " if within and p < ALPHA else ""
    return Finding(
        name=name,
        verdict=Verdict.INFO,
        sentence=f"{changed} of {len(rows)} questions changed their score; {seen}{words}",
        test="exact McNemar" if "McNemar" in words else "sign-flip permutation",
        unit="%",
        estimate=100 * changed / len(rows),
        n=len(rows),
        floor=None if floor is None else 100 * floor,
        ratio=changed / len(rows) / floor if floor else None,
        p=1.0 if within else p,
        alarm=Verdict.DIFFERENT,
    )
