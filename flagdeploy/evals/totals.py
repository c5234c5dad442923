"""Published totals: two columns of scores without their items, compared as what they are."""

import math
from collections.abc import Sequence

from flagdeploy.evals.distributions import fisher_exact, normal_cdf
from flagdeploy.evals.power import needed_unpaired
from flagdeploy.evals.proportions import newcombe, unpaired_p, unpaired_se
from flagdeploy.evals.tables import Row, Score
from flagdeploy.evals.verdict import ALPHA, KEPT, Finding, Verdict


def aggregates(rows: Sequence[Row], margin_pp: float | None = None) -> list[Finding]:
    """Unpaired non-inferiority of published scores: every row that can be judged is required.

    PASS by a one-sided z test of p_B > KEPT * p_A, or of p_B > p_A - `margin_pp` points; interval
    by Newcombe at 95%. Clustering is unknown for totals.
    """
    return [_aggregate(row, margin_pp) for row in rows]


def _aggregate(row: Row, margin_pp: float | None) -> Finding:
    a, b = row.baseline, row.candidate
    if a is None or b is None:
        side = "baseline" if a is None else "candidate"
        return Finding(
            row.task,
            Verdict.INFO,
            f"the {side} has no score",
            baseline=None if a is None else 100 * a.value,
            candidate=None if b is None else 100 * b.value,
        )
    if a.n is None or b.n is None:
        return Finding(
            row.task,
            Verdict.INCONCLUSIVE,
            "nobody said how many questions were asked; give n",
            required=True,
            estimate=100 * (b.value - a.value),
            unit="pp",
            baseline=100 * a.value,
            candidate=100 * b.value,
        )
    return _counted(row.task, a, b, a.n, b.n, margin_pp)


def _counted(task: str, a: Score, b: Score, n_a: int, n_b: int, margin_pp: float | None) -> Finding:
    counts = (a.right, n_a, b.right, n_b)
    p_a, p_b = a.right / n_a, b.right / n_b
    margin, kept = ((1 - KEPT) * p_a, KEPT) if margin_pp is None else (margin_pp / 100, 1.0)
    distance = p_b - p_a + margin
    se = unpaired_se(*counts, kept)
    z = distance / se if se else math.copysign(math.inf, distance)
    interval = newcombe(*counts)
    passed = normal_cdf(-z) < ALPHA
    doubt = "" if a.reproduced and b.reproduced else "; no whole number of right answers gives this"
    return Finding(
        name=task,
        verdict=Verdict.PASS if passed else Verdict.INCONCLUSIVE,
        sentence=(
            f"{p_a:.2%} at the baseline, {p_b:.2%} here; unpaired z test p = "
            f"{unpaired_p(*counts):.3f}, Fisher p = {fisher_exact(*counts):.3f}, "
            f"non-inferiority p = {normal_cdf(-z):.3f}{doubt}"
        ),
        required=True,
        test="unpaired one-sided z test, Newcombe's interval",
        unit="pp",
        estimate=100 * (p_b - p_a),
        interval=interval.scaled(100),
        level=0.95,
        n=n_b,
        margin=100 * margin,
        p=normal_cdf(z),
        needed_n=needed_unpaired(p_a, p_b, margin) if not passed and margin else None,
        baseline=100 * p_a,
        candidate=100 * p_b,
    )
