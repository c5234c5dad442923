"""The same questions on both sides: answers put together by content, and every test of them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flagdeploy.evals.accuracy import Pair, accuracy
from flagdeploy.evals.answers import Answer
from flagdeploy.evals.bundle import Bundle
from flagdeploy.evals.divergence import Parting, divergence, parting
from flagdeploy.evals.figures import divergence_survival, length_histogram
from flagdeploy.evals.lengths import output_length, truncation
from flagdeploy.evals.sequential import Look
from flagdeploy.evals.verdict import ALPHA, Finding


@dataclass(frozen=True)
class Question:
    """One question with its answers, one for each repeat; as many on both sides."""

    baseline: tuple[Answer, ...]
    candidate: tuple[Answer, ...]

    @property
    def key(self) -> str:
        return self.baseline[0].item

    @property
    def scores(self) -> tuple[float, float | None]:
        """Mean over the repeats of baseline and candidate; None where the candidate lost any.

        A question of which some repeats are missing is not the mean of the others: those that
        time out are the long ones.
        """
        theirs = [answer.score for answer in self.candidate if answer.score is not None]
        ours = [answer.score or 0.0 for answer in self.baseline]
        whole = len(theirs) == len(self.candidate)
        return _mean(ours), _mean(theirs) if whole else None

    @property
    def tokens(self) -> tuple[float, float] | None:
        """Mean completion tokens of both sides, None where one does not know them."""
        sides = [[x.completion_tokens for x in side] for side in (self.baseline, self.candidate)]
        known = [[count for count in side if count] for side in sides]
        if any(len(side) < len(self.baseline) for side in known):
            return None
        return _mean(known[0]), _mean(known[1])


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def pair_up(recorded: Iterable[Answer], answers: Iterable[Answer]) -> list[Question]:
    """Questions answered on both sides, in the order of `recorded`; repeats beyond the other
    side's are left out."""
    theirs: dict[str, list[Answer]] = {}
    for answer in answers:
        theirs.setdefault(answer.item, []).append(answer)
    ours: dict[str, list[Answer]] = {}
    for answer in recorded:
        ours.setdefault(answer.item, []).append(answer)
    common = [(side, theirs[key]) for key, side in ours.items() if key in theirs]
    both = [(x, y, min(len(x), len(y))) for x, y in common]
    return [Question(tuple(x[:n]), tuple(y[:n])) for x, y, n in both]


def findings_of(
    a: Bundle, questions: Sequence[Question], greedy: bool, look: Look
) -> list[Finding]:
    """Accuracy, flips, lengths, cut replies and, for `greedy` ones, where texts part.

    p values and intervals are those of `look`, so that a run may end at any of its looks.
    """
    if not questions:
        return []
    level = 1.0 - 2.0 * look.nominal(ALPHA)
    clusters = {item.key: item.cluster for item in a.items}
    pairs = [
        Pair(
            question.key,
            question.baseline[0].task,
            *question.scores,
            _subject(question.key, clusters),
            len(question.baseline),
        )
        for question in questions
    ]
    cut = [
        (x.status == "length", y.status == "length", question.key)
        for question in questions
        for x, y in zip(question.baseline, question.candidate, strict=True)
        if y.score is not None
    ]
    findings = [
        *accuracy(pairs, a.margins_pp, a.noise_floor.get("discordant"), level),
        output_length([tokens for q in questions if (tokens := q.tokens)], level),
        truncation([row[:2] for row in cut], [row[2] for row in cut], level),
        *(_divergence(a, questions) if greedy else []),
    ]
    return [f if f.p is None else replace(f, p=look.p(f.p)) for f in findings]


def _subject(item: str, clusters: Mapping[str, str]) -> str:
    """The item's subject; a question without one is recorded as its own, which is none."""
    cluster = clusters.get(item, "")
    return "" if cluster == item else cluster


def _partings(a: Bundle, questions: Sequence[Question]) -> list[Parting]:
    """First divergence of greedy replies whose tokens both sides know."""
    theirs = {q.key: q.candidate[0] for q in questions if q.candidate[0].token_ids}
    return [
        parting(
            passage.key,
            passage.continuation,
            theirs[passage.key].token_ids or (),
            cut=theirs[passage.key].status == "length",
            positions=passage.positions,
        )
        for passage in a.passages
        if passage.key in theirs
    ]


def _divergence(a: Bundle, questions: Sequence[Question]) -> list[Finding]:
    partings = _partings(a, questions)
    return [divergence(partings, a.noise_floor.get("divergence"))] if partings else []


def drawn(a: Bundle, questions: Sequence[Question], greedy: bool) -> dict[str, Any]:
    """What a report draws of the answers."""
    partings = _partings(a, questions) if greedy else []
    tokens = [
        (x.completion_tokens, y.completion_tokens)
        for question in questions
        for x, y in zip(question.baseline, question.candidate, strict=True)
        if x.completion_tokens and y.completion_tokens
    ]
    figures = {}
    if partings:
        figures["survival"] = divergence_survival(partings, a.noise_floor.get("divergence"))
    if tokens:
        figures["lengths"] = length_histogram(tokens)
    return figures


def planned_tests(a: Bundle, scored: bool, greedy: bool, own_floor: bool) -> int:
    """How many tests with a p value a whole run makes: what an early alarm is adjusted for."""
    benchmarks = len(a.margins_pp)
    accuracies = benchmarks + (benchmarks != 1)
    flips_length_cut = 3
    parts = bool(greedy and a.passages)
    return accuracies + flips_length_cut + parts + 3 * scored + own_floor


def flips(questions: Iterable[Question], asked: Mapping[str, str]) -> list[dict[str, Any]]:
    """Questions mostly right on one side and mostly wrong on the other, with first answers.

    `asked`: the text of each question by its key.
    """
    rows = []
    for question in questions:
        ours, theirs = question.scores
        if theirs is not None and (ours > 0.5) != (theirs > 0.5):
            x, y = question.baseline[0], question.candidate[0]
            rows.append(_flip(x, y, asked.get(question.key, "")))
    return rows


def _flip(x: Answer, y: Answer, question: str) -> dict[str, Any]:
    sides = {"baseline": x, "candidate": y}
    shown = {
        side: {
            "prediction": answer.prediction,
            "score": answer.score,
            "status": answer.status,
            "content": answer.content,
        }
        for side, answer in sides.items()
    }
    return {"item": x.item, "task": x.task, "question": question, "gold": x.gold, **shown}


def identical(questions: Sequence[Question]) -> float | None:
    """Share of replies that are the same word for word; None where nothing was asked."""
    if not questions:
        return None
    return _mean([float(q.baseline[0].content == q.candidate[0].content) for q in questions])
