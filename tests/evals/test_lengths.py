import random

import pytest

from flagdeploy.evals.lengths import output_length, truncation
from flagdeploy.evals.verdict import Verdict, judged


def test_output_length() -> None:
    rng = random.Random(0)
    lengths = [rng.randint(50, 150) for _ in range(200)]
    same = [(n, max(1, n + rng.randint(-3, 3))) for n in lengths]
    assert output_length(same).verdict is Verdict.PASS
    longer = output_length([(n, 2 * n) for n in lengths])
    assert judged([longer])[0].verdict is Verdict.DIFFERENT
    assert longer.estimate == pytest.approx(100.0)
    assert longer.sentence == "replies are 100.00% longer than the baseline's"
    assert output_length([(5, 5)] * 3).verdict is Verdict.INFO


def test_a_spread_that_the_mean_hides_stays_open() -> None:
    rng = random.Random(1)
    pairs = [(100, max(1, round(100 * rng.lognormvariate(0, 1)))) for _ in range(60)]
    finding = output_length(pairs)
    assert judged([finding])[0].verdict is Verdict.INCONCLUSIVE


def test_truncation() -> None:
    assert truncation([(False, False)] * 500).verdict is Verdict.PASS
    (more,) = judged([truncation([(False, i % 10 == 0) for i in range(500)])])
    assert more.verdict is Verdict.DIFFERENT
    assert more.sentence == (
        "0 of 500 replies are cut at the baseline, 50 here; 50 only here, 0 only there "
        "(exact McNemar p = 1.78e-15)"
    )
    assert truncation([(False, False)] * 50).verdict is Verdict.INCONCLUSIVE
    assert truncation([]).verdict is Verdict.INFO
