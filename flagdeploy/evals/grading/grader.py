"""Both graders for one reply, and whether they differ."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from flagdeploy.errors import EvalError, did_you_mean
from flagdeploy.evals.grading.grade import Grade, Status, status_of
from flagdeploy.evals.grading.lenient import benchmarks
from flagdeploy.evals.grading.mlperf import references
from flagdeploy.evals.grading.mlperf.text import cleaned
from flagdeploy.evals.grading.pool import Pool
from flagdeploy.evals.grading.replies import final_text
from flagdeploy.evals.grading.rule import Rule

NOT_RUN = (
    "generated code is not run on this machine; name a container image to run it in, "
    "without network and with limits"
)


@dataclass(frozen=True)
class Reply:
    """One reply to one question of `benchmark`; `gold` is None where the data set has none."""

    benchmark: str
    text: str
    gold: str | None
    finish_reason: str | None = None


@dataclass(frozen=True)
class Grades:
    """One reply by both graders; `mlperf` is None where its reference has no such benchmark."""

    mlperf: Grade | None
    lenient: Grade

    @property
    def differ(self) -> bool:
        """Whether the two give different scores."""
        return self.mlperf is not None and self.mlperf.score != self.lenient.score

    def __str__(self) -> str:
        """One line for a report; it names both where they differ."""
        if not self.differ or self.mlperf is None:
            return _words(self.lenient)
        return f"mlperf: {_words(self.mlperf)}; lenient: {_words(self.lenient)}"


class Grader:
    """Grades replies. A context manager: it owns the pool, which starts with the first formula.

    ``with Grader() as grader: grader.both(Reply("math500", text, gold))``
    """

    def __init__(self, reference: str = "deepseek-r1", pool: Pool | None = None) -> None:
        self.reference = reference
        self.pool = Pool() if pool is None else pool

    def __enter__(self) -> "Grader":
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.close()

    def mlperf(self, reply: Reply) -> Grade | None:
        """By the rules of MLPerf's reference; None where it does not grade this benchmark."""
        rule = references.find_rule(reply.benchmark, self.reference)
        return None if rule is None else self._graded(rule, cleaned(reply.text), reply)

    def lenient(self, reply: Reply) -> Grade:
        """As a fair reader would; raises EvalError for a benchmark that nobody knows."""
        rule = benchmarks.find_rule(reply.benchmark)
        if rule is None:
            raise EvalError(
                f"no grader knows the benchmark `{reply.benchmark}`",
                hint=did_you_mean(reply.benchmark, list(benchmarks.RULES)),
            )
        text = final_text(reply.text, reply.finish_reason)
        if text is None:
            return Grade(None, 0.0, Status.TRUNCATED)
        return self._graded(rule, text, reply)

    def both(self, reply: Reply) -> Grades:
        return Grades(self.mlperf(reply), self.lenient(reply))

    def all(self, replies: Iterable[Reply], at_once: int = 2) -> list[Grades]:
        """`both` of every reply, in their order; `at_once` formulas are compared at a time."""
        with ThreadPoolExecutor(at_once) as threads:
            return list(threads.map(self.both, replies))

    def _graded(self, rule: Rule, text: str, reply: Reply) -> Grade:
        prediction = rule.read(text)
        status = status_of(prediction, reply.finish_reason)
        if rule.equal is None and prediction:
            return Grade(prediction, None, Status.NOT_GRADED, NOT_RUN)
        if not prediction or not reply.gold or rule.equal is None:
            return Grade(prediction, 0.0, status)
        if not isinstance(rule.equal, str):
            return Grade(prediction, float(rule.equal(prediction, reply.gold)), status)
        found = self.pool.compare(rule.equal, prediction, reply.gold)
        if found.error:
            return Grade(prediction, 0.0, Status.ERROR, found.error)
        return Grade(prediction, float(found.equal), status)


def _words(grade: Grade) -> str:
    prediction = "no answer" if grade.prediction is None else f"`{grade.prediction}`"
    verdict = {1.0: "right", 0.0: "wrong", None: "not graded"}[grade.score]
    rest = "" if grade.status is Status.PARSED else f" ({grade.status})"
    return f"{prediction} {verdict}{rest}"
