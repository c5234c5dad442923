import random

import pytest

from flagdeploy.evals.accuracy import Pair, accuracy
from flagdeploy.evals.verdict import Finding, Verdict, judged, overall


def pairs(
    n: int, right: float, better: float, worse: float, seed: int = 0, task: str = "t"
) -> list[Pair]:
    """`n` seeded questions: baseline right with probability `right`; `better` and `worse` are the
    shares of all questions that only the candidate, only the baseline answers."""
    rng = random.Random(f"{seed}{task}")
    rows = []
    for index in range(n):
        a = float(rng.random() < right)
        flip = rng.random() < (worse / right if a else better / (1 - right))
        rows.append(Pair(f"{task}{index}", task, a, 1 - a if flip else a))
    return rows


def three(better: float, worse: float, seed: int) -> list[Pair]:
    sets = (("gsm8k", 400), ("mmlu", 400), ("aime", 200))
    return [pair for task, n in sets for pair in pairs(n, 0.8, better, worse, seed, task)]


MARGINS = {"gsm8k": 3.0, "mmlu": 3.0, "aime": 3.0}


def verdict(findings: list[Finding]) -> Verdict:
    return overall(judged(findings))


def test_nothing_discordant_in_thirty_questions_proves_nothing() -> None:
    finding, _ = accuracy(pairs(30, 0.8, 0, 0), {})
    assert finding.verdict is Verdict.INCONCLUSIVE
    assert finding.required
    assert finding.needed_n is not None
    assert finding.needed_n > 300


def test_faithful_deployments_pass_two_hundred_times() -> None:
    # 1000 questions, 4% discordant either way round: BF16 on other kernels against FP32.
    verdicts = [verdict(accuracy(three(0.02, 0.02, seed), MARGINS)) for seed in range(200)]
    assert verdicts.count(Verdict.FAIL) == 0
    assert verdicts.count(Verdict.PASS) >= 190


def test_a_loss_of_ten_points_always_fails() -> None:
    verdicts = [verdict(accuracy(three(0.04, 0.14, seed), MARGINS)) for seed in range(100)]
    assert set(verdicts) == {Verdict.FAIL}


def test_a_loss_at_the_margin_rarely_passes() -> None:
    verdicts = [verdict(accuracy(three(0.01, 0.04, seed), MARGINS)) for seed in range(400)]
    assert verdicts.count(Verdict.PASS) / 400 <= 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5


def test_the_pool_decides_where_each_benchmark_is_too_small() -> None:
    rows = three(0.02, 0.02, 1)[:-150]  # leaves 50 questions of the last benchmark
    findings = judged(accuracy(rows, MARGINS))
    assert [finding.name for finding in findings] == [
        "accuracy, all benchmarks",
        "accuracy, gsm8k",
        "accuracy, mmlu",
        "accuracy, aime",
        "answer flips",
    ]
    assert [finding.required for finding in findings] == [True, False, False, False, False]
    assert findings[0].verdict is Verdict.PASS
    assert findings[3].verdict is Verdict.INCONCLUSIVE
    assert overall(findings) is Verdict.PASS


def test_one_broken_benchmark_fails_a_passing_pool() -> None:
    rows = pairs(5000, 0.8, 0.001, 0.001, task="big") + pairs(100, 0.8, 0.0, 0.4, task="broken")
    findings = judged(accuracy(rows, {"big": 3.0, "broken": 3.0}))
    assert [f.verdict for f in findings] == ["PASS", "PASS", "FAIL", "INFO"]
    assert overall(findings) is Verdict.FAIL


def test_the_default_margin_is_one_per_cent_of_the_baseline() -> None:
    rows = [Pair(str(i), "t", 1.0 if i < 900 else 0.0, 0.0) for i in range(1000)]
    assert accuracy(rows, {})[0].margin == pytest.approx(0.9)
    assert accuracy(rows, {"t": 2.5})[0].margin == 2.5


def test_missing_answers_withhold_a_pass_when_they_could_matter() -> None:
    rows = [Pair(str(i), "t", 1.0, 1.0) for i in range(1000)]
    lost = [Pair(f"lost {i}", "t", 1.0, None) for i in range(60)]
    whole, _ = accuracy(rows, {"t": 3.0})
    part, _ = accuracy(rows + lost, {"t": 3.0})
    assert whole.verdict is Verdict.PASS
    assert part.verdict is Verdict.INCONCLUSIVE
    assert part.sentence == (
        "100.00% at the baseline, 100.00% here on 1000 questions; 0 right only here, 0 right only "
        "there (exact McNemar p = 1, mid-p 1); non-inferiority p = 1.34e-08 at 3.00 points; 60 "
        "without an answer, and counting those as wrong it would not pass"
    )


def test_a_few_missing_answers_do_not() -> None:
    rows = [Pair(str(i), "t", 1.0, 1.0) for i in range(1000)]
    finding, _ = accuracy([*rows, Pair("lost", "t", 1.0, None)], {"t": 3.0})
    assert finding.verdict is Verdict.PASS
    assert finding.sentence.endswith("; 1 without an answer")


def test_no_answers_at_all() -> None:
    finding, _ = accuracy([Pair("a", "t", 1.0, None)], {})
    assert finding.verdict is Verdict.INCONCLUSIVE
    assert finding.sentence == "no question was answered"


def test_subjects_are_groups_when_there_are_enough_of_them() -> None:
    def sentence(subjects: int, lone: int = 0) -> str:
        rows = [Pair(str(i), "t", 1.0, float(i % 50 > 0), f"s{i % subjects}") for i in range(200)]
        rows += [Pair(f"lone {i}", "u", 1.0, 1.0) for i in range(lone)]
        return accuracy(rows, {})[0].sentence

    assert "200 questions in 40 subjects;" in sentence(40)
    assert "200 questions (4 subjects, too few to tell how subjects vary);" in sentence(4)
    assert "230 questions in 70 independent groups;" in sentence(40, lone=30)


def test_repeats_are_means_and_their_flips_are_tested_by_permutation() -> None:
    rng = random.Random(4)

    def share(p: float) -> float:
        return sum(rng.random() < p for _ in range(8)) / 8

    rows = [Pair(str(i), "t", share(0.8), share(0.8), repeats=8) for i in range(198)]
    finding, flips = judged(accuracy(rows, {"t": 3.0}))
    assert finding.verdict is Verdict.PASS
    assert "198 questions asked 8 times; " in finding.sentence
    assert "better, " in finding.sentence
    assert "sign-flip permutation p = " in flips.sentence
    worse = [Pair(str(i), "t", share(0.8), share(0.7), repeats=8) for i in range(198)]
    assert judged(accuracy(worse, {"t": 3.0}))[0].verdict is Verdict.FAIL


def test_a_better_model_is_another_one() -> None:
    findings = judged(accuracy(three(0.12, 0.0, 3), MARGINS))
    assert overall(findings) is Verdict.DIFFERENT
    assert [f.name for f in findings if f.verdict is Verdict.DIFFERENT] == ["answer flips"]


def test_a_loss_that_is_certain_but_small_is_within_the_margin() -> None:
    rows = pairs(5000, 0.8, 0.0, 0.008)
    finding, flips = judged(accuracy(rows, {"t": 3.0}))
    assert (finding.verdict, flips.verdict) == ("PASS", "INFO")
    assert "detectable, but within the margin: exact McNemar p = " in flips.sentence


def test_sides_mirror_each_other() -> None:
    rows = three(0.03, 0.05, 8)
    mirrored = [Pair(p.key, p.task, p.candidate or 0.0, p.baseline) for p in rows]
    for one, other in zip(accuracy(rows, MARGINS), accuracy(mirrored, MARGINS), strict=True):
        if one.interval and other.interval:
            assert one.interval.low == pytest.approx(-other.interval.high)
        if "flips" in one.name:
            assert (one.estimate, one.p) == (other.estimate, other.p)


def test_the_order_of_questions_changes_nothing() -> None:
    rows = three(0.03, 0.05, 8)
    moved = sorted(rows, key=lambda pair: hash(pair.key))
    one = {f.name: f for f in accuracy(rows, MARGINS)}
    assert one == {f.name: f for f in accuracy(moved, MARGINS)}
