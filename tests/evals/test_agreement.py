import math
import random

import pytest

from flagdeploy.evals.agreement import parity, share_interval, teacher_forced
from flagdeploy.evals.teacher_forcing import Difference
from flagdeploy.evals.verdict import Finding, Verdict, judged, overall


def sequences(
    count: int, disagreement: float, shift: float, seed: int = 0, noise: float = 0.0
) -> list[Difference]:
    """`count` sequences of 100 positions, their rates scattered around the given ones."""
    rng = random.Random(seed)
    return [
        Difference(
            key=str(index),
            length=100,
            top1=1 - sum(rng.random() < disagreement * rng.uniform(0, 2) for _ in range(100)) / 100,
            top5=1.0,
            kl=rng.uniform(0.5, 1.5) * 0.5 * noise**2 * 0.3,
            delta_nll=rng.gauss(shift, 0.01),
            not_finite=0,
            impurity=0.3,
        )
        for index in range(count)
    ]


def verdicts(findings: list[Finding]) -> list[str]:
    return [finding.verdict for finding in judged(findings) if finding.required]


def test_bit_identical_sequences_pass_when_there_are_enough() -> None:
    same = [Difference(str(i), 100, 1.0, 1.0, 0.0, 0.0, 0, 0.3) for i in range(64)]
    assert verdicts(teacher_forced(same, 0, {})) == ["PASS", "PASS", "PASS"]
    # 50 clean sequences bound the share of bad ones by 5.8% only, more than the margin of 5%
    assert verdicts(teacher_forced(same[:50], 0, {})) == ["INCONCLUSIVE", "PASS", "PASS"]
    assert verdicts(teacher_forced(same[:10], 0, {})) == ["INCONCLUSIVE"] * 3


def test_another_kernel_passes_and_another_model_fails() -> None:
    for seed in range(20):
        near = teacher_forced(sequences(64, 0.01, 0.001, seed, noise=0.05), 0, {})
        assert verdicts(near) == ["PASS", "PASS", "PASS"]
        far = teacher_forced(sequences(64, 0.10, 0.06, seed, noise=0.5), 0, {})
        assert verdicts(far) == ["DIFFERENT"] * 3


def test_likelier_tokens_are_another_model_too() -> None:
    top1, nll, *_ = judged(teacher_forced(sequences(64, 0.01, -0.06), 0, {}))
    assert (top1.verdict, nll.verdict) == ("PASS", "DIFFERENT")
    assert nll.sentence == (
        "the baseline's tokens are 0.06 nat more likely on average; 0.020 nat is allowed"
    )


def test_a_noisy_baseline_widens_its_own_margin() -> None:
    top1, nll, *_ = teacher_forced(sequences(64, 0.06, 0.03), 0, {"top1": 0.06, "delta_nll": 0.03})
    assert (top1.margin, nll.margin) == pytest.approx((12.0, 0.06))
    assert (top1.verdict, nll.verdict) == ("PASS", "PASS")


def test_an_open_result_says_how_many_sequences_would_decide() -> None:
    top1, *_ = teacher_forced(sequences(25, 0.045, 0.0), 0, {})
    assert top1.verdict is Verdict.INCONCLUSIVE
    assert top1.needed_n is not None
    assert top1.needed_n > 25


def test_lost_sequences_withhold_a_pass() -> None:
    findings = teacher_forced(sequences(60, 0.01, 0.001), 4, {})
    assert verdicts(findings) == ["INCONCLUSIVE"] * 3
    assert findings[0].sentence.endswith("; 4 sequences could not be scored")
    (none,) = teacher_forced([], 64, {})
    assert none.sentence == "none of 64 sequences could be scored"
    assert none.required


def test_nan_fails() -> None:
    broken = Difference("x", 100, 1.0, 1.0, 0.0, 0.0, 3, 0.3)
    findings = teacher_forced([*sequences(63, 0.01, 0.0), broken], 0, {})
    assert overall(findings) is Verdict.FAIL
    assert findings[0].sentence == "3 scored positions have NaN log-probabilities"


def test_an_interval_of_nothing_seen_is_the_rule_of_three() -> None:
    interval = share_interval([0.0] * 64)
    assert interval.low == 0.0
    assert interval.high == pytest.approx(1 - 0.05 ** (1 / 64))


def test_parity() -> None:
    assert parity([], 12).verdict is Verdict.PASS
    finding = parity(["two turns: 9 prompt tokens at the baseline, 10 here"], 12)
    assert finding.verdict is Verdict.FAIL
    assert finding.sentence == (
        "1 of 12 prompts are tokenized differently, so chat template, tokenizer or system prompt "
        "differ: two turns: 9 prompt tokens at the baseline, 10 here"
    )


def test_not_finite_figures_become_null_in_json() -> None:
    (finding,) = [
        f for f in teacher_forced(sequences(1, 0.0, 0.0), 0, {}) if "likelihood" in f.name
    ]
    assert finding.interval is not None
    assert math.isinf(finding.interval.low)
    assert finding.to_json()["interval"] == {"low": None, "high": None}
