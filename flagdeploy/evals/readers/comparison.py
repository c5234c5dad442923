"""Two runs whose answers were recorded elsewhere: the tests that their records allow. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from flagdeploy.evals.accuracy import Pair, accuracy
from flagdeploy.evals.answers import Answer, account
from flagdeploy.evals.comparison import FLIPS_SHOWN, CompareResult, flip
from flagdeploy.evals.divergence import divergence, parting
from flagdeploy.evals.lengths import output_length, truncation
from flagdeploy.evals.readers.pairing import Pairing, Question, pair
from flagdeploy.evals.readers.samples import Samples
from flagdeploy.evals.verdict import Finding, Verdict, judged, overall

MODE = "paired answers only"


def compared(
    a: Samples, b: Samples, margins_pp: Mapping[str, float | None] | None = None
) -> CompareResult:
    """Candidate `b` against baseline `a`, question by question.

    A question of the baseline without an answer here counts as one that was asked in vain, unless
    the candidate's run is known to have asked fewer. Raises EvalError when none can be paired.
    """
    pairing = pair(a, b)
    unlike = _unlike(a, b, pairing)
    tests = _accuracy(pairing, b, margins_pp or {}) if a.grader and b.grader else [_ungraded(a, b)]
    if unlike:
        tests = [unlike, *(_not_judged(test) for test in tests)]
    replies = _replies(pairing)
    findings = judged([_paired(pairing, b), *tests, *_outputs(a, b, replies)])
    flips = [
        flip(x, y)
        for x, y in replies
        if None not in (x.score, y.score) and x.score != y.score
    ]
    same = [x.token_ids == y.token_ids and x.content == y.content for x, y in replies]
    return CompareResult(
        verdict=overall(findings),
        mode=MODE,
        suite="",
        findings=tuple(findings),
        baseline=a.about(),
        candidate=b.about(),
        answers={"baseline": account(a.answers), "candidate": account(b.answers)},
        flips=tuple(flips[:FLIPS_SHOWN]),
        flip_count=len(flips),
        identical=sum(same) / len(same) if same and _has_texts(replies) else None,
    )


def _replies(pairing: Pairing) -> list[tuple[Answer, Answer]]:
    """The answers of each pair of questions side by side, repeat by repeat."""
    return [
        answers for a, b in pairing.pairs for answers in zip(a.answers, b.answers, strict=False)
    ]


def _has_texts(replies: Sequence[tuple[Answer, Answer]]) -> bool:
    return all(answer.content or answer.token_ids for row in replies for answer in row)


def _paired(pairing: Pairing, b: Samples) -> Finding:
    n = len(pairing.pairs)
    parts = [f"{n} questions are paired by {pairing.how}"]
    if lost := len(pairing.only_baseline):
        why = f"not asked here ({b.limited})" if b.limited else "counted as asked here in vain"
        parts.append(f"{lost} are only at the baseline, {why}")
    if extra := len(pairing.only_candidate):
        parts.append(f"{extra} are only here and left out")
    if pairing.gold:
        parts.append(f"{pairing.gold} share their text but not the right answer")
    if pairing.ambiguous:
        parts.append(f"{pairing.ambiguous} fit several questions of the other side")
    if unscored := sum(question.score is None for question, _ in pairing.pairs):
        parts.append(f"{unscored} have no score at the baseline and are left out of the accuracy")
    return Finding("pairing", Verdict.INFO, "; ".join(parts), test="content hash", n=n)


def _unlike(a: Samples, b: Samples, pairing: Pairing) -> Finding | None:
    """Required: what differs between the two runs beside the deployment; None when nothing does.

    Then a difference in accuracy is of the prompt or of the grader as likely as of the model.
    """
    reasons = []
    if a.grader and b.grader and a.grader != b.grader:
        reasons.append(f"graded by {a.grader} there, by {b.grader} here")
    if pairing.prompts_differ:
        reasons.append(f"{pairing.prompts_differ} questions were prompted otherwise")
    if not reasons:
        return None
    sentence = f"{', and '.join(reasons)}: a difference may be of that, so none is judged"
    return Finding("asked and graded alike", Verdict.INCONCLUSIVE, sentence, required=True)


def _not_judged(test: Finding) -> Finding:
    return replace(
        test, verdict=Verdict.INFO, required=False, p=None, needed_n=None, needed_repeats=None
    )


def _ungraded(a: Samples, b: Samples) -> Finding:
    mute = " and ".join(side.name for side in (a, b) if not side.grader)
    sentence = (
        f"{mute}: token ids without right and wrong, which data set and tokenizer would tell; "
        "compare what the evaluation script made of the log"
    )
    return Finding("accuracy", Verdict.INCONCLUSIVE, sentence, required=True)


def _accuracy(
    pairing: Pairing, b: Samples, margins_pp: Mapping[str, float | None]
) -> list[Finding]:
    both: list[tuple[Question, Question | None]] = list(pairing.pairs)
    if not b.limited:
        both += [(question, None) for question in pairing.only_baseline]
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


def _outputs(
    a: Samples, b: Samples, replies: Sequence[tuple[Answer, Answer]]
) -> list[Finding]:
    """Lengths, cut replies and greedy divergence, each where both sides keep what it needs."""
    found = []
    tokens = [
        (x.completion_tokens, y.completion_tokens)
        for x, y in replies
        if x.completion_tokens and y.completion_tokens
    ]
    if tokens:
        found.append(output_length(tokens))
    if a.cut_known and b.cut_known:
        answered = [row for row in replies if None not in (row[0].score, row[1].score)]
        found.append(truncation([(x.status == "length", y.status == "length") for x, y in answered]))
    known = [
        parting(x.item, x.token_ids, y.token_ids, cut="length" in (x.status, y.status))
        for x, y in replies
        if x.token_ids and y.token_ids
    ]
    if known:
        finding = divergence(known)
        if not (a.greedy and b.greedy):
            note = "; this means something only if both sides were greedy"
            finding = replace(finding, sentence=finding.sentence + note)
        found.append(finding)
    return found
