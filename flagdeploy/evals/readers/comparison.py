"""Two runs whose answers were recorded elsewhere: the tests that their records allow. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from flagdeploy.evals import tiers
from flagdeploy.evals.accuracy import Pair, accuracy
from flagdeploy.evals.answers import MISSING, Answer, account
from flagdeploy.evals.comparison import FLIPS_SHOWN, CompareResult
from flagdeploy.evals.divergence import Parting, divergence, parting
from flagdeploy.evals.figures import divergence_survival, length_histogram
from flagdeploy.evals.lengths import output_length, truncation
from flagdeploy.evals.pairing import Question, flips, identical
from flagdeploy.evals.readers.matching import Asked, Matching, match
from flagdeploy.evals.readers.recorded import GRADER, regraded
from flagdeploy.evals.readers.samples import Samples
from flagdeploy.evals.tiers import Tier
from flagdeploy.evals.verdict import Finding, Verdict, judged, overall

MODE = "paired answers only"


def compared(
    a: Samples, b: Samples, margins_pp: Mapping[str, float | None] | None = None
) -> CompareResult:
    """Candidate `b` against baseline `a`, question by question.

    A question of the baseline without an answer here counts as one that was asked in vain, unless
    the candidate's run is known to have asked fewer. Raises EvalError when none can be paired.
    """
    matching = match(a, b)
    a, b, matching = _graded_alike(a, b, matching)
    tests = _accuracy(matching, b, margins_pp or {}) if a.grader and b.grader else [_ungraded(a, b)]
    if unlike := _unlike(a, b, matching):
        tests = [unlike, *(_not_judged(test) for test in tests)]
    questions = [_question(x, y) for x, y in matching.pairs]
    findings = judged([_matched(matching, b), *tests, *_outputs(a, b, questions)])
    scored = [q for q in questions if all(answer.score is not None for answer in q.baseline)]
    flipped = flips(scored, {x.key: x.text for x, _ in matching.pairs})
    return CompareResult(
        verdict=overall(findings),
        mode=MODE,
        suite="",
        findings=tuple(findings),
        baseline=a.about(),
        candidate=b.about(),
        answers={"baseline": account(a.answers), "candidate": account(b.answers)},
        flips=tuple(flipped[:FLIPS_SHOWN]),
        flip_count=len(flipped),
        identical=identical(questions) if _have_texts(questions) else None,
        figures=_figures(a, b, questions),
        tiers=(Tier(tiers.ANSWERS, True, f"{len(questions)} recorded answers on both sides"),),
    )


def _question(x: Asked, y: Asked) -> Question:
    n = min(len(x.answers), len(y.answers))
    return Question(x.answers[:n], y.answers[:n])


def _have_texts(questions: Sequence[Question]) -> bool:
    return all(q.baseline[0].content and q.candidate[0].content for q in questions)


def _graded_alike(a: Samples, b: Samples, matching: Matching) -> tuple[Samples, Samples, Matching]:
    """Both sides graded by the questions of the one that has them, where every reply is kept."""
    items = {**b.items, **a.items}
    chosen = [items.get(x.key) or items.get(y.key) for x, y in matching.pairs]
    replies = [answer for pair in matching.pairs for side in pair for answer in side.answers]
    if a.grader == b.grader or not all(chosen):
        return a, b, matching
    if not all(answer.content or answer.status in MISSING for answer in replies):
        return a, b, matching
    pairs = tuple(
        (
            replace(x, answers=tuple(regraded(item, answer) for answer in x.answers)),
            replace(y, answers=tuple(regraded(item, answer) for answer in y.answers)),
        )
        for (x, y), item in zip(matching.pairs, chosen, strict=True)
        if item
    )
    return _regraded(a, pairs, 0), _regraded(b, pairs, 1), replace(matching, pairs=pairs)


def _regraded(side: Samples, pairs: Sequence[tuple[Asked, Asked]], place: int) -> Samples:
    """`side` with the new grades of what is paired; the rest keeps its own."""
    asked = {(pair[place].task, pair[place].key): iter(pair[place].answers) for pair in pairs}
    rows = (
        replace(row, answer=next(asked.get((row.answer.task, row.answer.item), iter([row.answer]))))
        for row in side.rows
    )
    return replace(side, rows=tuple(rows), grader=GRADER)


def _matched(matching: Matching, b: Samples) -> Finding:
    n = len(matching.pairs)
    parts = [f"{n} questions are paired by {matching.how}"]
    if lost := len(matching.only_baseline):
        why = f"not asked here ({b.limited})" if b.limited else "counted as asked here in vain"
        parts.append(f"{lost} are only at the baseline, {why}")
    if extra := len(matching.only_candidate):
        parts.append(f"{extra} are only here and left out")
    if matching.gold:
        parts.append(f"{matching.gold} share their text but not the right answer")
    if matching.ambiguous:
        parts.append(f"{matching.ambiguous} fit several questions of the other side")
    if unscored := sum(question.score is None for question, _ in matching.pairs):
        parts.append(f"{unscored} have no score at the baseline and are left out of the accuracy")
    return Finding("pairing", Verdict.INFO, "; ".join(parts), test="content hash", n=n)


def _unlike(a: Samples, b: Samples, matching: Matching) -> Finding | None:
    """Required: what differs between the two runs beside the deployment; None when nothing does.

    Then a difference in accuracy is of the prompt or of the grader as likely as of the model.
    """
    reasons = []
    if a.grader and b.grader and a.grader != b.grader:
        reasons.append(f"graded by {a.grader} there, by {b.grader} here")
    if matching.prompts_differ:
        reasons.append(f"{matching.prompts_differ} questions were prompted otherwise")
    if not reasons:
        return None
    sentence = f"{' and '.join(reasons)}: a difference may be of that, so accuracy is not judged"
    return Finding("asked and graded alike", Verdict.INCONCLUSIVE, sentence, required=True)


def _not_judged(test: Finding) -> Finding:
    return replace(
        test, verdict=Verdict.INFO, required=False, p=None, needed_n=None, needed_repeats=None
    )


def _ungraded(a: Samples, b: Samples) -> Finding:
    mute = " and ".join(side.name for side in (a, b) if not side.grader)
    sentence = f"which replies are right is not said by {mute}, so accuracy cannot be compared"
    return Finding("accuracy", Verdict.INCONCLUSIVE, sentence, required=True)


def _accuracy(
    matching: Matching, b: Samples, margins_pp: Mapping[str, float | None]
) -> list[Finding]:
    both: list[tuple[Asked, Asked | None]] = list(matching.pairs)
    if not b.limited:
        both += [(question, None) for question in matching.only_baseline]
    pairs = [
        Pair(
            x.key,
            x.task,
            x.score,
            y.score if y else None,
            x.cluster,
            min(len(x.answers), len(y.answers) if y else len(x.answers)),
        )
        for x, y in both
        if x.score is not None
    ]
    return accuracy(pairs, margins_pp)


def _outputs(a: Samples, b: Samples, questions: Sequence[Question]) -> list[Finding]:
    """Lengths, cut replies and greedy divergence, each where both sides keep what it needs."""
    found = []
    tokens = [tokens for question in questions if (tokens := question.tokens)]
    if tokens:
        found.append(output_length(tokens))
    replies = _replies(questions)
    if a.cut_known and b.cut_known:
        cut = [(x.status == "length", y.status == "length") for x, y, _ in replies]
        found.append(truncation(cut, [key for _, _, key in replies]))
    if partings := _partings(questions):
        finding = divergence(partings)
        if not (a.greedy and b.greedy):
            note = "; this means something only if both sides were greedy"
            finding = replace(finding, sentence=finding.sentence + note)
        found.append(finding)
    return found


def _figures(a: Samples, b: Samples, questions: Sequence[Question]) -> dict[str, Any]:
    """What a report draws."""
    figures = {}
    tokens = [
        (x.completion_tokens, y.completion_tokens)
        for x, y, _ in _replies(questions)
        if x.completion_tokens and y.completion_tokens
    ]
    if tokens:
        figures["lengths"] = length_histogram(tokens)
    partings = _partings(questions)
    if partings and a.greedy and b.greedy:
        figures["survival"] = divergence_survival(partings, None)
    return figures


def _replies(questions: Sequence[Question]) -> list[tuple[Answer, Answer, str]]:
    """Replies side by side with their question, where both came."""
    return [
        (x, y, question.key)
        for question in questions
        for x, y in zip(question.baseline, question.candidate, strict=True)
        if x.status not in MISSING and y.status not in MISSING
    ]


def _partings(questions: Sequence[Question]) -> list[Parting]:
    return [
        parting(key, x.token_ids, y.token_ids, cut="length" in (x.status, y.status))
        for x, y, key in _replies(questions)
        if x.token_ids and y.token_ids
    ]
