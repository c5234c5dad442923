"""When a comparison may end, and that ending early raises no false alarm."""

import random
from dataclasses import replace

import pytest

from evals.test_noise_floor import noisy
from flagdeploy.evals.accuracy import Pair, accuracy
from flagdeploy.evals.agreement import teacher_forced
from flagdeploy.evals.lengths import output_length
from flagdeploy.evals.noise_floor import distance, largest
from flagdeploy.evals.tiers import Stage, decided, stages
from flagdeploy.evals.verdict import ALPHA, Finding, Verdict, judged, overall

RUNS = 200
MARGINS: dict[str, float | None] = {"gsm8k": 5.0, "mmlu": 5.0, "aime": 5.0}


def found(name: str, verdict: Verdict, **more: float) -> Finding:
    return Finding(name, verdict, "", required=name.endswith("all"), margin=3.0, **more)  # type: ignore[arg-type]


def test_a_plain_run_looks_once_and_loses_no_power() -> None:
    (stage,) = stages(1000, 1, early=False)
    assert (stage.questions, stage.repeats) == (1000, 1)
    assert (stage.look.nominal(ALPHA), stage.look.p(0.03)) == (ALPHA, 0.03)


def test_an_early_run_looks_at_parts_that_double() -> None:
    plan = stages(1000, 1, early=True)
    assert [stage.questions for stage in plan] == [125, 250, 500, 1000]
    assert plan[0].look.information == (0.125, 0.25, 0.5, 1.0)
    assert [stage.look.last for stage in plan] == [False, False, False, True]
    assert [stage.questions for stage in stages(5, 1, early=True)] == [1, 2, 3, 5]


def test_repeats_until_decided_look_at_repeats() -> None:
    plan = stages(30, 0, early=True)
    assert [(stage.questions, stage.repeats) for stage in plan] == [
        (30, 1), (30, 2), (30, 4), (30, 8), (30, 16)
    ]  # fmt: skip
    assert plan[2].look.information == (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)


def test_fail_decides_and_a_pass_only_where_it_may() -> None:
    failed = [found("accuracy, all", Verdict.FAIL)]
    assert decided(failed) == "FAIL is shown"
    passed = [found("accuracy, all", Verdict.PASS)]
    assert decided(passed) == ""
    assert decided(passed, to_pass=True) == "PASS is shown"
    assert decided([found("accuracy, all", Verdict.INCONCLUSIVE)], to_pass=True) == ""


@pytest.mark.parametrize(
    ("pooled", "single", "ends"),
    [
        (Verdict.PASS, -1.0, True),
        (Verdict.INCONCLUSIVE, -1.0, False),  # harm is still possible
        (Verdict.PASS, -3.5, False),  # one benchmark is on its way to FAIL
    ],
)
def test_another_model_is_asked_until_harm_is_excluded(
    pooled: Verdict, single: float, ends: bool
) -> None:
    findings = [
        found("teacher-forced logit noise", Verdict.DIFFERENT),
        found("accuracy, all", pooled, estimate=-0.5),
        found("accuracy, aime", Verdict.INCONCLUSIVE, estimate=single),
    ]
    assert bool(decided(findings)) is ends


def test_an_early_alarm_would_also_be_one_with_every_test_planned() -> None:
    early = [found("a", Verdict.PASS, p=0.02), found("b", Verdict.PASS, p=0.004)]
    assert [f.p for f in judged(early, planned=12)] == [pytest.approx(0.22), pytest.approx(0.048)]
    for later in (0.0, 0.004, 0.5):
        more = [found("c", Verdict.PASS, p=later)] * 10
        assert judged([*early, *more])[1].verdict is Verdict.FAIL
    assert judged(early)[0].p == 0.02  # nothing else was planned


# --- 200 simulated runs of a baseline against itself ---------------------------------------------


def questions(seed: int, psi: float, loss: float = 0.0) -> list[Pair]:
    rng = random.Random(seed)
    pairs = []
    for index in range(500):
        task = ("gsm8k", "gsm8k", "mmlu", "mmlu", "aime")[index % 5]
        a = float(rng.random() < 0.85)
        flip = rng.random() < (psi / 2 / 0.85 + loss if a else psi / 2 / 0.15)
        pairs.append(Pair(f"{task} {index}", task, a, 1 - a if flip else a))
    return pairs


def run(seed: int, early: bool, sigma: float = 0.05, loss: float = 0.0) -> tuple[Verdict, Stage]:
    """The tiers as the workflow takes them; `sigma` nat of noise, `loss` of accuracy."""
    rng = random.Random(1000 + seed)
    floor = largest([distance([(1.0, 1.0)], noisy(0.05, 10_000 + seed), [])])
    pairs = questions(seed, 0.04, loss)
    lengths = [(n, max(1, n + rng.randint(-20, 20))) for n in (rng.randint(40, 160) for _ in pairs)]
    planned = 3 + 4 + 1 + 1
    forced = teacher_forced(noisy(sigma, seed), 0, floor)
    early = early or overall(judged(forced, planned)) is Verdict.DIFFERENT
    for stage in stages(len(pairs), 1, early):
        level = 1.0 - 2.0 * stage.look.nominal(ALPHA)
        answered = [
            *accuracy(pairs[: stage.questions], MARGINS, 0.04, level),
            *([output_length(lengths[: stage.questions], level)] if sigma < 0.1 else []),
        ]
        answered = [f if f.p is None else replace(f, p=stage.look.p(f.p)) for f in answered]
        findings = judged([*forced, *answered], 0 if stage.look.last else planned)
        if decided(findings, to_pass=early):
            break
    return overall(findings), stage


@pytest.mark.parametrize("early", [False, True], ids=["plain", "early"])
def test_tiers_that_may_end_early_alarm_no_more_often_than_alpha(early: bool) -> None:
    ended = [run(seed, early) for seed in range(RUNS)]
    verdicts = [verdict for verdict, _ in ended]
    assert verdicts.count(Verdict.FAIL) + verdicts.count(Verdict.DIFFERENT) <= ALPHA * RUNS
    assert verdicts.count(Verdict.PASS) >= 0.95 * RUNS
    assert any(stage.questions < 500 for _, stage in ended) is early


def test_another_but_harmless_model_is_called_worse_no_more_often_than_alpha() -> None:
    ended = [run(seed, early=False, sigma=0.5) for seed in range(RUNS)]
    verdicts = [verdict for verdict, _ in ended]
    assert verdicts.count(Verdict.FAIL) <= ALPHA * RUNS
    assert verdicts.count(Verdict.DIFFERENT) >= 0.95 * RUNS
    assert sum(stage.questions for _, stage in ended) < 0.8 * 500 * RUNS


def test_a_damaged_model_fails_after_few_questions() -> None:
    ended = [run(seed, early=False, sigma=2.0, loss=0.4) for seed in range(20)]
    assert {verdict for verdict, _ in ended} == {Verdict.FAIL}
    assert sum(stage.questions for _, stage in ended) <= 20 * 200


def sampled(seed: int, loss: float, most: int = 16) -> tuple[Verdict, Stage]:
    """Repeats until decided: 150 questions of all difficulties, a candidate worse by `loss`."""
    rng = random.Random(seed)
    ease = [rng.choice((0.0, 0.5, 0.8, 0.95, 1.0, 1.0)) for _ in range(150)]
    right = [[0, 0] for _ in ease]
    asked = 0
    for stage in stages(len(ease), 0, early=False, most=most):
        for p, counts in zip(ease, right, strict=True):
            for _ in range(stage.repeats - asked):
                counts[0] += rng.random() < p
                counts[1] += rng.random() < p - loss * 6 / 5 * (p > 0)
        asked = stage.repeats
        pairs = [
            Pair(str(i), "t", a / asked, b / asked, repeats=asked) for i, (a, b) in enumerate(right)
        ]
        level = 1.0 - 2.0 * stage.look.nominal(ALPHA)
        answered = accuracy(pairs, {"t": 5.0}, None, level)
        findings = judged([f if f.p is None else replace(f, p=stage.look.p(f.p)) for f in answered])
        if decided(findings, to_pass=True):
            break
    return overall(findings), stage


def test_repeats_until_decided_call_the_same_model_worse_no_more_often_than_alpha() -> None:
    ended = [sampled(seed, 0.0) for seed in range(RUNS)]
    verdicts = [verdict for verdict, _ in ended]
    assert verdicts.count(Verdict.FAIL) + verdicts.count(Verdict.DIFFERENT) <= ALPHA * RUNS
    assert verdicts.count(Verdict.PASS) >= 0.9 * RUNS
    assert sum(stage.repeats for _, stage in ended) < 0.8 * 16 * RUNS


def test_a_model_worse_by_the_margin_passes_no_more_often_than_alpha() -> None:
    passed = [sampled(seed, 0.05)[0] for seed in range(RUNS)].count(Verdict.PASS)
    assert passed <= (ALPHA + 3 * (ALPHA * (1 - ALPHA) / RUNS) ** 0.5) * RUNS
