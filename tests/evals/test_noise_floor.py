import math
import random

import pytest

from flagdeploy.evals.agreement import teacher_forced
from flagdeploy.evals.divergence import Parting
from flagdeploy.evals.noise_floor import Floor, distance, largest, logit_noise
from flagdeploy.evals.teacher_forcing import Difference
from flagdeploy.evals.verdict import judged


def noisy(sigma: float, seed: int, count: int = 64) -> list[Difference]:
    """Sequences whose logits are off by `sigma` nat: what that does to KL and to near ties."""
    rng = random.Random(seed)
    rows = []
    for index in range(count):
        impurity = rng.uniform(0.1, 0.5)
        kl = 0.5 * sigma**2 * impurity * rng.uniform(0.6, 1.4)
        flips = sum(rng.random() < 0.05 * sigma for _ in range(100)) / 100
        rows.append(Difference(str(index), 100, 1 - flips, 1.0, kl, kl, 0, impurity, flips))
    return rows


def floor_of(sigma: float, seed: int = 99) -> dict[str, object]:
    return {"runs": 2, **largest([distance([(1.0, 1.0)], noisy(sigma, seed), [])])}


def test_logit_noise_is_what_was_put_in() -> None:
    assert logit_noise(noisy(0.3, 1)) == pytest.approx(0.3, rel=0.05)
    assert logit_noise([Difference("a", 10, 1.0, 1.0, 0.0, 0.0, 0, 0.0)]) == 0.0


def test_a_floor_is_the_largest_of_its_repeats() -> None:
    first = distance([(1.0, 0.0), (1.0, 1.0)], noisy(0.1, 1), [Parting("a", 9, True)])
    second = distance([(1.0, 1.0), (1.0, 1.0)], noisy(0.2, 2), [Parting("a", 9, False)])
    both = largest([first, second])
    assert both["discordant"] == 0.5
    assert both["logit_noise"] == pytest.approx(0.2, rel=0.05)
    assert both["divergence"] == 0.1
    assert both["sequences"]["0"]["kl"] == round(
        max(first["sequences"]["0"]["kl"], second["sequences"]["0"]["kl"]), 6
    )


def test_equal_repeats_store_no_sequences() -> None:
    same = [Difference("a", 10, 1.0, 1.0, 0.0, 0.0, 0, 0.3)]
    assert "sequences" not in largest([distance([(1.0, 1.0)], same, [])])


def test_a_ratio_of_one_to_a_floor_of_the_same_size() -> None:
    findings = {f.name: f for f in teacher_forced(noisy(0.2, 5), 0, floor_of(0.2))}
    for name in ("teacher-forced logit noise", "lumped top-k KL divergence"):
        found = findings[name]
        assert found.ratio == pytest.approx(1.0, abs=0.2)
        assert found.ratio_interval is not None
        assert found.ratio_interval.low < 1.02
        assert found.ratio_interval.high > 0.98


def test_a_noisy_baseline_allows_its_candidate_twice_its_own_noise() -> None:
    # 0.2 nat are beyond the margin, but not for a baseline that is off by as much itself
    without = judged(teacher_forced(noisy(0.2, 5), 0, {}))[2]
    within = judged(teacher_forced(noisy(0.2, 5), 0, floor_of(0.2)))[2]
    beyond = judged(teacher_forced(noisy(0.8, 5), 0, floor_of(0.2)))[2]
    assert [f.verdict for f in (without, within, beyond)] == ["DIFFERENT", "PASS", "DIFFERENT"]
    assert within.margin == pytest.approx(0.4, rel=0.05)
    assert within.sentence.endswith("; 2 times the baseline's own noise is allowed")
    assert beyond.ratio == pytest.approx(4.0, rel=0.1)


def test_a_floor_of_nothing_gives_no_ratio() -> None:
    finding = teacher_forced(noisy(0.05, 1), 0, {"logit_noise": 0.0})[2]
    assert (finding.floor, finding.ratio, finding.ratio_interval) == (0.0, None, None)


def test_sequences_that_the_floor_does_not_know_leave_its_mean() -> None:
    floor = Floor({"top1": 0.04, "sequences": {"a": {"top1": 0.04, "kl": 0.0}}}, ["a", "b"])
    limit = floor.limit("top1", 0.05)
    assert (limit.value, limit.floors) == (0.08, ())
    assert limit.excess([0.1, 0.0], 0.05) == pytest.approx([0.02, -0.08])
    paired = Floor({"top1": 0.04, "sequences": {"a": {"top1": 0.04, "kl": 0.0}}}, ["a"])
    assert paired.limit("top1", 0.05).excess([0.1], 0.05) == pytest.approx([0.02])
    assert not math.isnan(paired.value("top1") or math.nan)
