"""Recording and comparing where one side can be scored in other modes than the other."""

import json
import random
import re
from pathlib import Path

import pytest
import yaml
from evals.dialects import Dialect, drawn
from evals.stub_endpoint import serving

from flagdeploy.errors import UsageError
from flagdeploy.evals.bundle import Bundle, read_bundle
from flagdeploy.evals.client import Endpoint
from flagdeploy.evals.comparison import CompareResult
from flagdeploy.workflows.baseline import record
from flagdeploy.workflows.compare import compare

N = 24


def reply(prompt: str) -> str:
    return f"\\boxed{{{prompt[4:-1]}}}" if prompt.startswith("add") else "hello you"


def speaking(damage: float = 0.0, **settings: object) -> Dialect:
    """A server whose likeliest next character is that of its reply, or another for `damage`."""
    rest = drawn(vocabulary=24)

    def logprobs(prefix: tuple[int, ...]) -> dict[int, float]:
        text = "".join(map(chr, prefix))
        found = re.match(r".*<u>(add \d+\?)(.*)$", text, re.DOTALL)
        wanted = reply(found[1])[len(found[2]) :][:1] if found else ""
        likely = ord(wanted) if wanted else 0
        if damage and random.Random(f"{damage} {prefix}").random() < damage:
            likely = 35
        return {**rest((*prefix[-3:],)), likely: -0.01}

    return Dialect(reply=reply, tokens=logprobs, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("questions")
    rows = [{"question": f"add {i}?", "answer": f"#### {i}"} for i in range(N)]
    (root / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    entry = {"name": "q", "shape": "gsm8k", "file": "q.jsonl", "prompt": "{question}"}
    (root / "benchmark.yaml").write_text(
        yaml.safe_dump({"benchmarks": [{**entry, "max_tokens": 60}]})
    )
    return root


def recorded(folder: Path, stub: Dialect, mode: str | None = None) -> Bundle:
    out = folder / "bundle.jsonl.gz"
    with serving(stub):
        endpoint = Endpoint(stub.url)
        record(endpoint, out, benchmarks=folder, concurrency=(4, 8), sequences=24, mode=mode)
    return read_bundle(out)


@pytest.fixture(scope="module")
def whole(folder: Path) -> Bundle:
    return recorded(folder, speaking())


def compared(stub: Dialect, a: Bundle, mode: str | None = None) -> CompareResult:
    with serving(stub):
        return compare(Endpoint(stub.url), a, mode=mode)


def test_a_baseline_that_can_both_is_scored_by_prefill_and_by_decoding(whole: Bundle) -> None:
    assert whole.manifest["modes"] == ["S", "D"]
    assert all(passage.mode == "S" for passage in whole.passages)
    for passage in whole.passages:
        assert len(passage.decoded) == len(passage.positions) == len(passage.continuation)
    assert whole.noise_floor["decoded"]["top1"] == 0.0
    assert whole.manifest["repeats"][0]["concurrency"] == 8


@pytest.mark.parametrize(("dialect", "label"), [("vllm", "S"), ("sglang", "S"), ("trtllm", "D")])
def test_each_engine_is_compared_in_a_mode_that_both_have(
    whole: Bundle, dialect: str, label: str
) -> None:
    result = compared(speaking(dialect=dialect), whole)
    assert result.scoring["why"] == label
    assert result.to_json()["scoring"]["mode"] == label
    verdicts = {finding.name: str(finding.verdict) for finding in result.findings}
    assert verdicts["teacher-forced log-likelihood difference"] == "PASS"
    assert result.mode == "paired with teacher forcing"
    forcing = next(tier for tier in result.tiers if tier.name == "teacher forcing")
    assert forcing.why == f"24 sequences, mode {label}"


@pytest.mark.parametrize("dialect", ["vllm", "trtllm"])
def test_damage_is_found_in_either_mode(whole: Bundle, dialect: str) -> None:
    result = compared(speaking(0.3, dialect=dialect), whole)
    top1 = next(f for f in result.findings if f.name == "teacher-forced top-1 disagreement")
    assert top1.verdict == "DIFFERENT"


def test_a_forced_mode_is_kept_and_never_compared_with_the_other(
    folder: Path, whole: Bundle
) -> None:
    assert compared(speaking(), whole, "D").scoring["mode"] == "D"
    by_prefill = recorded(folder, speaking(), "S")
    assert (by_prefill.manifest["modes"], by_prefill.passages[0].decoded) == (["S"], ())
    result = compared(speaking(), by_prefill, "D")
    assert result.mode == "paired answers only"
    assert "prefill and decoding are not compared" in result.scoring["why"]
    with pytest.raises(UsageError, match="cannot be scored in mode S"):
        compared(speaking(dialect="trtllm"), whole, "S")


def test_a_baseline_that_does_not_tell_the_ids_of_its_answers_has_nothing_to_score(
    folder: Path,
) -> None:
    bundle = recorded(folder, speaking(dialect="trtllm"))
    assert bundle.passages == ()
    result = compared(speaking(), bundle)
    assert result.scoring["why"] == "the baseline has no log-probabilities"
    assert result.mode == "paired answers only"
