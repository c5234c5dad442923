"""Where a comparison ends, and what it says of the tiers it did not run."""

import json
from pathlib import Path
from typing import Any

import pytest
from evals.stub_endpoint import serving

from flagdeploy.errors import UsageError
from flagdeploy.evals.client import Endpoint
from flagdeploy.evals.comparison import CompareResult
from flagdeploy.evals.pairing import planned_tests
from flagdeploy.records.events import Event
from flagdeploy.workflows.compare import compare
from workflows.test_compare import N, bundle, compared, model, verdicts, workspace

__all__ = ["workspace"]  # the fixture


def ran(result: CompareResult) -> dict[str, str]:
    """Tiers that ran, and with a dash those that did not, with what was said of them."""
    return {("" if tier.ran else "- ") + tier.name: tier.why for tier in result.tiers}


def asked(result: CompareResult) -> int:
    return sum(result.answers["candidate"].values())


def test_a_plain_run_of_the_same_model_asks_everything(workspace: Path) -> None:
    result = compared(model(0.2), workspace)
    assert (result.verdict, asked(result)) == ("PASS", 3 * N)
    assert ran(result) == {
        "parity": "19 prompts",
        "teacher forcing": "64 sequences, mode S",
        "- own floor": "the quick suite does not measure it",
        "answers": "450 questions",
    }
    assert result.looks == {}


def test_nan_ends_a_run_before_any_answer(workspace: Path) -> None:
    stub = model(0.2)
    stub.nan = True
    result = compared(stub, workspace)
    assert (result.verdict, asked(result)) == ("FAIL", 0)
    assert ran(result)["- answers"] == "FAIL is shown by teacher forcing"
    whole = compared(stub, workspace, all_tiers=True)
    assert (whole.verdict, asked(whole)) == ("FAIL", 3 * N)
    assert "- answers" not in ran(whole)


def test_another_model_is_asked_until_harm_is_excluded(workspace: Path) -> None:
    stub = model(0.2)
    stub.noise = 1.0
    result = compared(stub, workspace)
    assert result.verdict == "DIFFERENT"
    why = "225 of 450 questions: the model is another one and harm is excluded"
    assert ran(result)["answers"] == why
    assert (asked(result), verdicts(result)["accuracy, all benchmarks"]) == (225, "PASS")
    assert result.looks["number"] == 3
    assert result.looks["spent"] == pytest.approx(0.05 / 4, rel=0.01)
    assert sum(result.answers["baseline"].values()) == 225
    whole = compared(stub, workspace, all_tiers=True)
    assert (whole.verdict, asked(whole), whole.looks) == ("DIFFERENT", 3 * N, {})


def test_another_model_is_asked_until_harm_is_shown(workspace: Path) -> None:
    stub = model(0.8)
    stub.noise = 1.0
    result = compared(stub, workspace)
    assert (result.verdict, asked(result)) == ("FAIL", 57)
    assert ran(result)["answers"] == "57 of 450 questions: FAIL is shown"


def test_an_early_run_of_the_same_model_ends_at_pass(workspace: Path) -> None:
    result = compared(model(0.2), workspace, early=True)
    assert (result.verdict, asked(result)) == ("PASS", 225)
    assert ran(result)["answers"].endswith(": PASS is shown")
    pooled = next(f for f in result.findings if f.name == "accuracy, all benchmarks")
    assert pooled.level == pytest.approx(0.979, abs=0.001)  # not 90%: it had looked before


def test_a_run_that_ends_at_parity_says_of_every_tier_why(workspace: Path) -> None:
    stub = model(0.2)
    stub.bos = (1, 1)
    result = compared(stub, workspace, suite="standard")
    reason = "FAIL is shown by parity"
    assert ran(result) == {
        "parity": "19 prompts",
        "- teacher forcing": reason,
        "- own floor": reason,
        "- answers": reason,
    }
    assert result.to_json()["tiers"][1] == {"name": "teacher forcing", "ran": False, "why": reason}


def test_standard_measures_the_candidate_against_itself(workspace: Path) -> None:
    result = compared(model(0.2), workspace, suite="standard")
    assert (result.verdict, verdicts(result)["candidate against itself"]) == ("PASS", "PASS")
    assert ran(result)["own floor"] == "64 sequences scored twice"
    unsteady = model(0.2)
    unsteady.unsteady = 0.5
    result = compared(unsteady, workspace, suite="standard")
    finding = next(f for f in result.findings if f.name == "candidate against itself")
    assert finding.verdict == "DIFFERENT"
    assert "the mark of nondeterministic kernels" in finding.sentence
    assert finding.sentence.startswith("scored at 16 and at 64 requests at once, it differs")


def test_an_early_alarm_is_adjusted_for_as_many_tests_as_a_whole_run_makes(workspace: Path) -> None:
    result = compared(model(0.2), workspace, suite="standard")
    made = sum(finding.p is not None for finding in result.findings)
    assert made == planned_tests(bundle(workspace), scored=True, greedy=True, own_floor=True)


def test_without_scores_the_candidate_answers_twice(workspace: Path) -> None:
    stub = model(0.2)
    stub.prompt_logprobs = False
    result = compared(stub, workspace, suite="standard")
    assert ran(result)["own floor"] == "64 questions answered twice"
    assert verdicts(result)["candidate against itself"] == "INFO"
    stub.strict = True
    result = compared(stub, workspace, suite="standard")
    reason = "the candidate gives neither log-probabilities nor token ids"
    assert ran(result)["- own floor"] == reason


def test_early_and_all_tiers(workspace: Path) -> None:
    with pytest.raises(UsageError, match="--early and --all-tiers exclude each other"):
        compared(model(0.2), workspace, early=True, all_tiers=True)


@pytest.mark.parametrize("after", [3, 40, 70, 200])
def test_an_interrupted_run_goes_on_and_ends_the_same(
    workspace: Path, tmp_path: Path, after: int
) -> None:
    """The candidate is another one each time it scores: only what is recorded can agree."""
    stub = model(0.25)
    stub.unsteady = 0.3

    def interrupt(event: Event) -> None:
        nonlocal after
        after -= 1
        if after == 0:
            raise KeyboardInterrupt

    with serving(stub):
        sides = Endpoint(stub.url, name="tiny"), "gpu"
        options: dict[str, Any] = {"workspace": workspace, "record_dir": tmp_path, "early": True}
        with pytest.raises(KeyboardInterrupt):
            compare(*sides, report=interrupt, **options)
        whole = compare(*sides, **options)
        seen = len(stub.seen)
        again = compare(*sides, **options)
    assert untimed(again) == untimed(whole)
    graded = (tmp_path / "answers.graded.jsonl").read_text().splitlines()
    assert len(graded) == asked(whole)
    assert not any(
        "prompt_logprobs" in body and len(body["prompt"]) > 40 for body in stub.seen[seen:]
    )


def untimed(result: CompareResult) -> str:
    return json.dumps({**result.to_json(), "started": "", "seconds": 0}, sort_keys=True)


def test_what_another_model_at_the_same_address_said_is_not_taken_up(
    workspace: Path, tmp_path: Path
) -> None:
    stub = model(0.2)
    with serving(stub):
        options: dict[str, Any] = {"workspace": workspace, "record_dir": tmp_path}
        assert compare(Endpoint(stub.url), "tiny/gpu", **options).verdict == "PASS"
        stub.model, stub.nan = "another", True
        result = compare(Endpoint(stub.url), "tiny/gpu", **options)
    assert verdicts(result)["finite log-probabilities"] == "FAIL"
