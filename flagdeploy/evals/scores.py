"""What the answers to one benchmark are worth: by each grader, with standard error and counts."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flagdeploy.evals.answers import MISSING, Answer, account
from flagdeploy.evals.dataset import DataSet
from flagdeploy.evals.grading.grade import Grade
from flagdeploy.evals.grading.grader import Grades
from flagdeploy.evals.items import Item
from flagdeploy.evals.statistics import Mean, clustered_mean

# Fewer subjects say nothing about how subjects vary: then questions count as independent.
FEWEST_CLUSTERS = 20
Rule = Literal["mlperf", "lenient"]
RULES: tuple[Rule, ...] = ("mlperf", "lenient")


@dataclass(frozen=True)
class Judged:
    """One answer and its grades; None where the endpoint gave no reply to grade."""

    item: Item
    answer: Answer
    grades: Grades | None

    def grade(self, rule: Rule) -> Grade | None:
        """None: no reply, or a benchmark that the reference does not grade."""
        if self.grades is None:
            return None
        return self.grades.mlperf if rule == "mlperf" else self.grades.lenient


@dataclass(frozen=True)
class Score:
    """A score by one rule: `mean` from 0 to 1 of `n` graded replies."""

    mean: Mean
    n: int


@dataclass(frozen=True)
class Result:
    """One benchmark, answered and graded. `settings` are how it was asked."""

    name: str
    title: str
    judged: tuple[Judged, ...]
    settings: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def questions(self) -> int:
        return len(by_question(self.judged))

    @property
    def counts(self) -> dict[str, int]:
        return account(one.answer for one in self.judged)

    @property
    def differ(self) -> int:
        """Replies that the two graders give different scores."""
        return sum(one.grades is not None and one.grades.differ for one in self.judged)

    @property
    def mean_tokens(self) -> float | None:
        tokens = [one.answer.completion_tokens for one in self.judged]
        known = [count for count in tokens if count is not None]
        return math.fsum(known) / len(known) if known else None

    def score(self, rule: Rule) -> Score | None:
        return score(self.judged, rule)

    def parts(self) -> dict[str, tuple[Judged, ...]]:
        """Of a mixed set its answers by what graded them; empty for a plain one."""
        parts: dict[str, list[Judged]] = {}
        for one in self.judged:
            parts.setdefault(one.item.shape.partition(":")[2], []).append(one)
        return {name: tuple(rows) for name, rows in parts.items()} if len(parts) > 1 else {}

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "title": self.title,
            "questions": self.questions,
            "answers": self.counts,
            "mean_tokens": self.mean_tokens,
            "graders_differ": self.differ,
            "scores": _scores(self.judged),
            "parts": {name: _scores(rows) for name, rows in self.parts().items()},
            "settings": self.settings,
            "notes": list(self.notes),
        }


def mlperf_gate(result: Result, dataset: DataSet) -> str | None:
    """Whether a whole run reaches what MLPerf wants of it, a point rule without any uncertainty;
    None for other sets, and where not every row was graded.

    99% of the reference's score, and 90 to 110% of its mean tokens (submission_checker).
    """
    found = result.score("mlperf")
    if dataset.reference is None or found is None or found.n != dataset.rows:
        return None
    score, tokens = dataset.reference
    wanted, reached = [f"{0.99 * score:.4f}%"], [f"{100 * found.mean.value:.4f}%"]
    passed = 100 * found.mean.value >= 0.99 * score
    if tokens and result.mean_tokens is not None:
        wanted.append(f"{0.9 * tokens:.1f} to {1.1 * tokens:.1f} tokens on average")
        reached.append(f"{result.mean_tokens:.1f}")
        passed = passed and 0.9 * tokens <= result.mean_tokens <= 1.1 * tokens
    verdict = "reached" if passed else "not reached"
    return f"MLPerf wants {' and '.join(wanted)}; {' and '.join(reached)}: {verdict}"


def _scores(judged: Sequence[Judged]) -> dict[str, Any]:
    found = {rule: score(judged, rule) for rule in RULES}
    return {
        rule: {
            "score": one.mean.value,
            "stderr": one.mean.se if math.isfinite(one.mean.se) else None,
            "clusters": one.mean.clusters,
            "n": one.n,
        }
        for rule, one in found.items()
        if one
    }


def by_question(judged: Iterable[Judged]) -> list[list[Judged]]:
    """The repeats of each question together, in the order asked.

    A question that stands in its set twice, as some do, is two.
    """
    seen: Counter[tuple[str, int]] = Counter()
    rows: dict[tuple[str, int], list[Judged]] = {}
    for one in judged:
        asked = (one.item.key, one.answer.repeat)
        seen[asked] += 1
        rows.setdefault((one.item.key, seen[asked]), []).append(one)
    return list(rows.values())


def score(judged: Iterable[Judged], rule: Rule) -> Score | None:
    """The mean over questions of the mean over their repeats, its error clustered by subject.

    A reply without an answer scores 0; a request without a reply, and what nothing may grade, are
    left out. None when nothing was graded by `rule`, or it is no rule for some of it.
    """
    means, subjects, questions, n = [], [], [], 0
    for repeats in by_question(judged):
        grades = [one.grade(rule) for one in repeats if one.answer.status not in MISSING]
        if None in grades:
            return None
        scores = [grade.score for grade in grades if grade and grade.score is not None]
        if scores:
            means.append(math.fsum(scores) / len(scores))
            subjects.append(repeats[0].item.cluster)
            questions.append(repeats[0].item.key)
            n += len(scores)
    if not means:
        return None
    clusters = subjects if len(set(subjects)) >= FEWEST_CLUSTERS else questions
    return Score(clustered_mean(means, clusters), n)
