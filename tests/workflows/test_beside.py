"""Two live endpoints: asked in turn, sampled alike, resumed where they were."""

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
from evals.stub_endpoint import Stub, serving

from flagdeploy.errors import EvalError, UsageError
from flagdeploy.evals.client import Endpoint, Patience
from flagdeploy.evals.comparison import CompareResult
from flagdeploy.workflows.compare import compare
from workflows.test_compare import N, model, verdicts, write_questions
from workflows.test_tiers import asked, ran


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("questions")
    write_questions(folder)
    return folder


def sampled(right: float, seed: int) -> Stub:
    """Right with probability `right`, anew at every request; greedy ones always alike."""
    rng = random.Random(seed)
    stub = model(0.2)
    greedy = stub.reply

    def reply(prompt: str) -> str:
        if stub.seen[-1].get("temperature", 0) == 0 or " " not in prompt:
            return greedy(prompt)
        perfect = model(0.0).reply if rng.random() < right else model(1.0).reply
        return perfect(prompt)

    stub.reply = reply
    return stub


def beside(a: Stub, b: Stub, questions: Path, **options: Any) -> CompareResult:
    with serving(a), serving(b):
        return compare(
            Endpoint(b.url, name="b"), Endpoint(a.url, name="a"), benchmarks=questions, **options
        )


def test_the_same_model_passes_and_has_a_floor(questions: Path) -> None:
    result = beside(model(0.2), model(0.2), questions)
    assert (result.verdict, asked(result)) == ("PASS", 3 * N)
    assert result.mode == "paired with teacher forcing"
    assert result.baseline["noise_floor"]["runs"] == 2
    assert result.baseline["noise_floor"]["logit_noise"] == 0.0
    assert ran(result)["teacher forcing"] == "64 sequences, mode S"
    assert verdicts(result)["greedy divergence"] == "INFO"


def test_both_sides_are_asked_the_same_at_the_same_time(questions: Path) -> None:
    order: list[str] = []
    a, b = model(0.2), model(0.2)
    for name, stub in (("a", a), ("b", b)):

        def noted(prompt: str, name: str = name, reply: Any = stub.reply) -> str:
            order.append(name)
            return str(reply(prompt))

        stub.reply = noted
    beside(a, b, questions, concurrency=4)
    # after parity and the slice that is scored, rounds of 16 requests on both sides
    rest = order[-2 * 16 * 20 :]
    rounds = [rest[i : i + 32] for i in range(0, len(rest), 32)]
    apart = [abs(part.count("a") - part.count("b")) for part in rounds]
    assert max(apart) <= 16
    switches = sum(x != y for x, y in itertools.pairwise(rest))
    assert switches >= 40


def test_a_worse_model_fails_early_where_tokens_differ(questions: Path) -> None:
    worse = model(0.8)
    worse.noise = 1.0
    result = beside(model(0.2), worse, questions)
    assert (result.verdict, ran(result)["answers"]) == (
        "FAIL", "57 of 450 questions: FAIL is shown"
    )  # fmt: skip


def test_sampled_answers_are_averaged_over_repeats(questions: Path) -> None:
    result = beside(
        sampled(0.8, 1), sampled(0.8, 2), questions, repeats=4, temperature=0.6, limit=30
    )
    pooled = next(f for f in result.findings if f.name == "accuracy, all benchmarks")
    assert "90 questions asked 4 times" in pooled.sentence
    assert asked(result) == 4 * 90
    assert ran(result)["answers"] == "90 questions asked 4 times"
    assert "greedy divergence" not in verdicts(result)
    assert result.identical is None
    assert result.baseline["sampling"] == {"temperature": 0.6, "top_p": None}


def test_a_sampled_run_keeps_what_it_asked_greedily_apart(questions: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"repeats": 2, "temperature": 0.6, "limit": 5}
    beside(sampled(0.8, 1), sampled(0.8, 2), questions, record_dir=tmp_path, **options)
    for name in ("answers", "answers-baseline"):
        counts = [
            len((tmp_path / f"{log}.jsonl").read_text().splitlines())
            for log in (name, f"{name}-greedy")
        ]
        assert counts == [30, 15], name


def test_repeats_until_decided_stop_at_fail_and_say_what_they_spent(questions: Path) -> None:
    result = beside(
        sampled(0.8, 1), sampled(0.3, 2), questions, repeats="auto", temperature=0.6, limit=40
    )
    assert result.verdict == "FAIL"
    assert ran(result)["answers"].endswith(" of 16 times: FAIL is shown")
    assert result.looks["number"] < 4
    assert result.looks["spent"] < 0.05 / 4
    assert result.looks["information"] == [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0]


def test_an_interrupted_pair_goes_on_and_ends_the_same(questions: Path, tmp_path: Path) -> None:
    a, b = model(0.2), model(0.3)
    with serving(a), serving(b):
        ends = Endpoint(b.url, name="b"), Endpoint(a.url, name="a")
        options: dict[str, Any] = {"benchmarks": questions, "patience": Patience(attempts=1)}
        whole = compare(*ends, record_dir=tmp_path / "whole", **options)
        seen = len(a.seen), len(b.seen)
        b.broken = ("count 7?",)
        a.broken = ("count 8?",)
        with pytest.raises(EvalError, match="the baseline gave no answer to 1 of "):
            compare(*ends, record_dir=tmp_path / "cut", **options)
        a.broken = b.broken = ()
        again = compare(*ends, record_dir=tmp_path / "cut", **options)
        assert untimed(again) == untimed(whole)
        before = len(a.seen), len(b.seen)
        assert untimed(compare(*ends, record_dir=tmp_path / "cut", **options)) == untimed(whole)
    # the third time only prompts and scores are asked for
    assert len(a.seen) - before[0] < 3 * N < seen[0]


def untimed(result: CompareResult) -> str:
    data = result.to_json()
    data["baseline"] = {**data["baseline"], "created": ""}
    return json.dumps({**data, "started": "", "seconds": 0}, sort_keys=True)


def test_a_live_baseline_without_questions() -> None:
    with (
        serving(model(0.2)) as stub,
        pytest.raises(UsageError, match="a live baseline brings no questions"),
    ):
        compare(Endpoint(stub.url), Endpoint(stub.url))


def test_a_question_that_stands_twice_in_its_file_counts_once(tmp_path: Path) -> None:
    write_questions(tmp_path)
    for path in tmp_path.glob("*.jsonl"):
        lines = path.read_text().splitlines(keepends=True)[:30]
        path.write_text("".join([*lines, *lines[:5]]))
    result = beside(model(0.2), model(0.2), tmp_path)
    assert ran(result)["teacher forcing"] == "64 sequences, mode S"
    assert (asked(result), sum(result.answers["baseline"].values())) == (90, 90)
