"""From differences to a verdict: pure functions, every rule with its reason.

Each test asks one question against a margin fixed beforehand. PASS: its 90% interval (two
one-sided 5% tests) lies within the margin. An alarm: the difference is shown to lie beyond. It
is FAIL where harm was shown (accuracy lost, NaN, prompts that became other tokens), DIFFERENT
where only another model was: near the baseline a divergence of probabilities says nothing about
which side answers better (arXiv 2606.19558), and a better model is another one too. Neither:
INCONCLUSIVE, with the sample size that would decide. "No significant difference" is no PASS.

Over all tests: any FAIL is FAIL; else any DIFFERENT is DIFFERENT; PASS needs every *required*
test to pass; else INCONCLUSIVE.

- Alarms are Holm-adjusted over every test of the report, so that the same model is called FAIL or
  DIFFERENT with probability ALPHA at most, however much is tested. PASS needs no adjustment:
  all required tests must pass (intersection-union).
- Parity, teacher-forced agreement, likelihood and logit noise, and accuracy pooled over all
  benchmarks are required. The pool is the primary endpoint, named before the run: its questions
  are the sum of the benchmarks', so it can decide where each alone is too small. A single
  benchmark is secondary: it can fail the deployment but, when merely too small to tell, does not
  withhold a PASS that the pool supports.
- Published totals have no items to pool fairly (one benchmark of 14 042 questions would drown
  one of 30), so there every row is required.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from flagdeploy.evals.statistics import Interval, holm

ALPHA = 0.05
LEVEL = 1 - 2 * ALPHA
KEPT = 0.99  # share of the baseline's accuracy to keep: the rule of MLPerf Inference


class Verdict(StrEnum):
    PASS = "PASS"
    FAIL = "FAIL"
    DIFFERENT = "DIFFERENT"
    INCONCLUSIVE = "INCONCLUSIVE"
    INFO = "INFO"  # shown, not judged


EXIT_CODES = {
    Verdict.PASS: 0,
    Verdict.FAIL: 1,
    Verdict.DIFFERENT: 1,
    Verdict.INCONCLUSIVE: 3,
}


@dataclass(frozen=True)
class Finding:
    """One test. `estimate`, `interval`, `margin` and `floor` in `unit` (pp, nat, %).

    `test` names the method. `p` is that of "the difference lies within what is allowed"; below
    ALPHA (after `judged`) the verdict becomes `alarm`. `floor` is the same figure for the baseline
    against itself, `ratio` the estimate as a multiple of it. `needed_n` of `n` (or of `clusters`
    where those are sequences) would decide an open test, or `needed_repeats` of the same ones.
    `baseline` and `candidate` are the scores of the two sides in %, where a test compares scores.
    """

    name: str
    verdict: Verdict
    sentence: str
    required: bool = False
    test: str = ""
    unit: str = ""
    estimate: float | None = None
    interval: Interval | None = None
    level: float | None = None
    n: int = 0
    clusters: int | None = None
    margin: float | None = None
    floor: float | None = None
    ratio: float | None = None
    ratio_interval: Interval | None = None
    p: float | None = None
    alarm: Verdict = Verdict.FAIL
    needed_n: int | None = None
    needed_repeats: int | None = None
    baseline: float | None = None
    candidate: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data; an edge or estimate that is not finite becomes null, as JSON has neither."""
        data = asdict(self)
        for field in ("interval", "ratio_interval"):
            interval = data[field] or {}
            data[field] = {key: _finite(value) for key, value in interval.items()} or None
        return {key: _finite(value) for key, value in data.items()}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def overall(findings: Sequence[Finding]) -> Verdict:
    found = {finding.verdict for finding in findings}
    for alarm in (Verdict.FAIL, Verdict.DIFFERENT):
        if alarm in found:
            return alarm
    required = [finding for finding in findings if finding.required]
    if required and all(finding.verdict is Verdict.PASS for finding in required):
        return Verdict.PASS
    return Verdict.INCONCLUSIVE


def judged(findings: Sequence[Finding], planned: int = 0) -> list[Finding]:
    """Every finding with its p Holm-adjusted over all of them, its alarm where below ALPHA.

    To be called once, on all tests of one report. A report that may end early names the number of
    tests it `planned`; those not yet made count as p = 1, so that what alarms now would also have
    alarmed with all of them, whatever they had found.
    """
    tested = [index for index, finding in enumerate(findings) if finding.p is not None]
    to_come = [1.0] * (planned - len(tested))
    adjusted = holm([*(findings[index].p or 0.0 for index in tested), *to_come])[: len(tested)]
    rows = list(findings)
    for index, p in zip(tested, adjusted, strict=True):
        finding = replace(rows[index], p=p)
        if p < ALPHA:
            finding = replace(finding, verdict=finding.alarm, needed_n=None, needed_repeats=None)
        rows[index] = finding
    return rows
