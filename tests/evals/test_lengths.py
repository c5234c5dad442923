import random

import pytest

from flagdeploy.evals.lengths import output_length
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
