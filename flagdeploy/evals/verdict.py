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
        """Plain data; an edge or estimate that is not finite becomes null, as JSON has neither."""
        data = asdict(self)
        interval = data["interval"] or {}
        data["interval"] = {key: _finite(value) for key, value in interval.items()} or None
        return {key: _finite(value) for key, value in data.items()}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def overall(findings: Sequence[Finding]) -> Verdict:
    if any(finding.verdict is Verdict.FAIL for finding in findings):
        return Verdict.FAIL
    required = [finding for finding in findings if finding.required]
    if required and all(finding.verdict is Verdict.PASS for finding in required):
        return Verdict.PASS
    return Verdict.INCONCLUSIVE


def failing(findings: Sequence[Finding]) -> list[Finding]:
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
