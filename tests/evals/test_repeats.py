from dataclasses import replace

import pytest

from evals.test_traps import answer, bundle
from flagdeploy.errors import UsageError
from flagdeploy.evals.answers import Sampling
from flagdeploy.evals.bundle import Bundle
from flagdeploy.evals.repeats import held, sampling
from flagdeploy.evals.suites import SUITES

QUICK, FULL = SUITES["quick"], SUITES["full"]
GREEDY = bundle(["a", "b"])
TWICE = replace(
    bundle(["a", "b"], 0.6), answers=tuple(answer(k, repeat=r) for r in (0, 1) for k in ("a", "b"))
)


@pytest.mark.parametrize("baseline", [GREEDY, None], ids=["recorded", "live"])
def test_a_quick_comparison_is_greedy(baseline: Bundle | None) -> None:
    assert sampling(QUICK, baseline, None, None, None) == (Sampling(), "")


def test_a_live_pair_samples_as_it_is_told() -> None:
    wanted = Sampling(0.6, 0.95, repeats=4)
    assert sampling(QUICK, None, "4", 0.6, 0.95) == (wanted, "")
    assert sampling(QUICK, None, "auto", 0.8, None)[0] == Sampling(0.8, repeats=0)


def test_a_full_suite_samples_where_both_sides_can() -> None:
    assert sampling(FULL, None, None, None, None)[0] == Sampling(0.6, 0.95, repeats=0)
    assert sampling(FULL, TWICE, None, None, None)[0] == Sampling(0.6, repeats=0)
    how, why = sampling(FULL, GREEDY, None, None, None)
    assert (how, why) == (Sampling(), "once, for repeats of greedy answers are copies")


def test_a_recorded_baseline_brings_as_many_samples_as_it_has() -> None:
    assert (held(TWICE), held(GREEDY)) == (2, 1)
    assert sampling(QUICK, TWICE, 2, None, None)[0] == Sampling(0.6, repeats=2)


@pytest.mark.parametrize(
    ("baseline", "repeats", "temperature", "message"),
    [
        (None, 4, None, "4 repeats of greedy answers would be copies of one, not samples"),
        (None, "auto", 0.0, "up to 16 repeats of greedy answers would be copies of one, not "),
        (GREEDY, 4, None, "4 repeats of greedy answers would be copies of one, and the baseline"),
        (GREEDY, 4, 0.6, "the baseline b was recorded with temperature 0.0, so the candidate can"),
        (TWICE, 4, 0.6, "the baseline b holds 2 answers to each question, not 4"),
        (TWICE, 2, 0.8, "the baseline b was recorded with temperature 0.6, so the candidate can"),
        (None, "0", 0.6, "--repeats 0: a number from 1, or auto"),
        (None, "many", 0.6, "--repeats many: a number from 1, or auto"),
    ],
)
def test_what_is_no_fair_comparison(
    baseline: Bundle | None, repeats: int | str, temperature: float | None, message: str
) -> None:
    with pytest.raises(UsageError) as error:
        sampling(QUICK, baseline, repeats, temperature, None)
    assert str(error.value).startswith(message)
