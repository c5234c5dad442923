"""A candidate that is no deterministic model, and one that only rounds."""

from dataclasses import replace

from evals.test_noise_floor import floor_of, noisy
from flagdeploy.evals.divergence import Parting
from flagdeploy.evals.own_floor import answered_twice, scored_twice
from flagdeploy.evals.teacher_forcing import Difference
from flagdeploy.evals.verdict import ALPHA, Finding, Verdict, judged

RUNS = 200
AT = (16, 64)


def found(differences: list[Difference], floor: dict[str, object] | None = None) -> Finding:
    (finding,) = judged([scored_twice(differences, floor or {}, AT)])
    return finding


def test_rounding_is_no_nondeterminism() -> None:
    finding = found(noisy(0.06, 1))
    assert finding.verdict is Verdict.PASS
    assert "nondeterministic" not in finding.sentence
    assert finding.sentence.endswith("; 0.125 nat is allowed")


def test_noise_far_beyond_the_baselines_own_is() -> None:
    finding = found(noisy(0.6, 1), floor_of(0.02))
    assert finding.verdict is Verdict.DIFFERENT
    assert "the mark of nondeterministic kernels (a race, uninitialised memory)" in finding.sentence
    assert finding.ratio is not None
    assert finding.ratio > 20


def test_a_baseline_as_noisy_excuses_it() -> None:
    assert found(noisy(0.3, 1), floor_of(0.3)).verdict is Verdict.PASS


def test_a_race_that_seldom_hits_shows_in_the_tokens_it_was_sure_of() -> None:
    rare = [replace(d, far=0.02 if i < 6 else 0.0) for i, d in enumerate(noisy(0.02, 1))]
    finding = found(rare)
    assert finding.verdict is Verdict.DIFFERENT
    assert "1 nat above the new one in 6 of 64 sequences" in finding.sentence


def test_nan_in_one_of_two_runs_fails() -> None:
    once = [replace(d, not_finite=int(i == 5)) for i, d in enumerate(noisy(0.02, 1))]
    finding = found(once)
    assert finding.verdict is Verdict.FAIL
    assert finding.sentence.endswith("1 positions have NaN log-probabilities the second time")


def test_a_model_certain_of_every_token_cannot_move() -> None:
    sure = [Difference(str(i), 100, 1.0, 1.0, 0.0, 0.0, 0, 0.0) for i in range(64)]
    assert found(sure).verdict is Verdict.PASS


def test_a_few_sequences_tell_nothing() -> None:
    assert found(noisy(0.06, 1, 10)).verdict is Verdict.INCONCLUSIVE


def test_a_baseline_measured_as_a_candidate_alarms_no_more_often_than_alpha() -> None:
    verdicts = [found(noisy(0.3, seed), floor_of(0.3, 500 + seed)).verdict for seed in range(RUNS)]
    assert verdicts.count(Verdict.DIFFERENT) <= ALPHA * RUNS
    assert verdicts.count(Verdict.PASS) >= 0.95 * RUNS


def test_greedy_replies_that_part_are_shown_beside_the_baselines() -> None:
    partings = [Parting(str(i), 50, i < 8) for i in range(64)]
    finding = answered_twice(partings, 0.001)
    assert (finding.verdict, finding.p) == (Verdict.INFO, None)
    assert finding.sentence == "8 of 64 greedy replies part from its own first ones"
    assert finding.floor == 1.0
