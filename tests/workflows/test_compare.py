"""Whole comparisons: a baseline recorded from one endpoint, another endpoint asked."""

import json
import random
from pathlib import Path

import pytest
import yaml
from evals.stub_endpoint import Stub, serving

from flagdeploy.errors import EvalError, UsageError
from flagdeploy.evals.bundle import Bundle, read_bundle
from flagdeploy.evals.client import Endpoint, Patience
from flagdeploy.evals.comparison import CompareResult
from flagdeploy.workflows.baseline import record
from flagdeploy.workflows.compare import compare

N = 150  # questions of each of the three benchmarks
WORDS = {"gsm8k": "add", "mmlu": "pick", "aime": "count"}


def write_questions(folder: Path) -> None:
    rows = {
        "gsm8k": [{"question": f"add {i}?", "answer": f"#### {i}"} for i in range(N)],
        "mmlu": [
            {"question": f"pick {i}?", "options": list("pqrs"), "answer": "ABCD"[i % 4]}
            for i in range(N)
        ],
        "aime": [{"problem": f"count {i}?", "answer": i} for i in range(N)],
    }
    entries = []
    for shape, questions in rows.items():
        (folder / f"{shape}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
        entries.append(
            {
                "name": shape,
                "shape": shape,
                "file": f"{shape}.jsonl",
                "prompt": "{question}",
                "max_tokens": 60,
                "margin_pp": 3.0,
            }
        )
    (folder / "benchmark.yaml").write_text(yaml.safe_dump({"benchmarks": entries}))


def model(wrong: float, seed: int = 0, long: int = 1) -> Stub:
    """Answers a share `wrong` of the questions wrongly, the same ones for the same seed."""

    def reply(prompt: str) -> str:
        word, _, rest = prompt.partition(" ")
        if word not in WORDS.values():
            return "hello"
        number = int(rest.split("?")[0])
        if random.Random(f"{seed} {prompt}").random() < wrong:
            number += 1
        if word == "pick":
            return f"<think>{'hm' * long}</think>Answer: {'ABCD'[number % 4]}"
        return f"<think>{'hm' * long}</think>\\boxed{{{number}}}"

    return Stub(reply)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose one deployment, `tiny`, has questions and a recorded baseline `gpu`."""
    root = tmp_path_factory.mktemp("workspace")
    folder = root / "examples" / "tiny"
    folder.mkdir(parents=True)
    write_questions(folder)
    (root / "env" / "baselines").mkdir(parents=True)
    (root / "env" / "baselines" / "paper.yaml").write_text(
        "title: a paper\nsource: there\nscores: {GSM8K: {n: 150, value: 80}, BBH: {value: 50}}\n"
    )
    with serving(model(0.2)) as stub:
        out = root / "env" / "baselines" / "tiny" / "gpu.jsonl.gz"
        record(Endpoint(stub.url), out, benchmarks=folder, concurrency=(4, 16))
    return root


def compared(
    stub: Stub, workspace: Path, baseline: str = "gpu", **options: object
) -> CompareResult:
    with serving(stub):
        endpoint = Endpoint(stub.url, name="tiny")
        return compare(endpoint, baseline, workspace=workspace, **options)  # type: ignore[arg-type]


def verdicts(result: CompareResult) -> dict[str, str]:
    return {finding.name: str(finding.verdict) for finding in result.findings}


def bundle(workspace: Path) -> Bundle:
    return read_bundle(workspace / "env" / "baselines" / "tiny" / "gpu.jsonl.gz")


def test_a_recording_holds_everything(workspace: Path) -> None:
    recorded = bundle(workspace)
    assert len(recorded.items) == len(recorded.answers) == 3 * N
    assert len(recorded.passages) == 64
    assert len(recorded.prompts) >= 10
    assert {passage.task for passage in recorded.passages} == {"gsm8k", "mmlu", "aime"}
    assert recorded.noise_floor == {
        "runs": 2,
        "concurrency": [4, 16],
        "discordant": 0.0,
        "different_text": 0.0,
        "top1": 0.0,
        "delta_nll": 0.0,
        "kl": 0.0,
        "logit_noise": 0.0,
        "divergence": 0.0,
    }
    assert [row["n"] for row in recorded.manifest["benchmarks"]] == [N, N, N]


def test_the_same_model_passes(workspace: Path) -> None:
    result = compared(model(0.2), workspace)
    assert verdicts(result) == {
        "parity": "PASS",
        "parameters": "PASS",
        "teacher-forced top-1 disagreement": "PASS",
        "teacher-forced log-likelihood difference": "PASS",
        "teacher-forced logit noise": "PASS",
        "top-5 containment": "INFO",
        "lumped top-k KL divergence": "INFO",
        "accuracy, all benchmarks": "PASS",
        "accuracy, gsm8k": "PASS",
        "accuracy, mmlu": "PASS",
        "accuracy, aime": "PASS",
        "answer flips": "INFO",
        "output length": "PASS",
        "truncated replies": "PASS",
        "greedy divergence": "INFO",
    }
    assert (result.verdict, result.exit_code) == ("PASS", 0)
    assert result.mode == "paired with teacher forcing"
    assert result.identical == 1.0
    assert result.flip_count == 0


def test_an_endpoint_without_a_name_finds_the_only_bundle_of_that_name(workspace: Path) -> None:
    with serving(model(0.2)) as stub:
        result = compare(stub.url, "gpu", workspace=workspace, limit=5)
    assert result.baseline["name"] == "gpu"
    assert result.candidate["name"] == stub.url


def test_a_little_numerical_noise_passes(workspace: Path) -> None:
    stub = model(0.2)
    stub.noise = 0.02
    assert compared(stub, workspace).exit_code == 0


def test_a_model_that_answers_worse_fails(workspace: Path) -> None:
    result = compared(model(0.35), workspace)
    assert verdicts(result)["accuracy, all benchmarks"] == "FAIL"
    assert (result.verdict, result.exit_code) == ("FAIL", 1)
    assert len(result.flips) == 10
    assert result.flip_count > 30
    flip = result.flips[0]
    assert flip["baseline"]["score"] != flip["candidate"]["score"]


def test_a_model_with_other_probabilities_is_another_one(workspace: Path) -> None:
    stub = model(0.2)
    stub.wrong = 0.2
    result = compared(stub, workspace)
    assert verdicts(result)["teacher-forced top-1 disagreement"] == "DIFFERENT"
    assert verdicts(result)["accuracy, all benchmarks"] == "PASS"
    assert (result.verdict, result.exit_code) == ("DIFFERENT", 1)


def test_nan_fails(workspace: Path) -> None:
    stub = model(0.2)
    stub.nan = True
    result = compared(stub, workspace)
    assert verdicts(result)["finite log-probabilities"] == "FAIL"
    assert "Infinity" not in json.dumps(result.to_json())
    assert "NaN" not in json.dumps(result.to_json()).replace("have NaN log", "")


def test_a_doubled_bos_stops_at_parity(workspace: Path) -> None:
    stub = model(0.2)
    stub.bos = (1, 1)
    result = compared(stub, workspace)
    assert verdicts(result) == {"parity": "FAIL"}
    assert "tokenized differently" in result.findings[0].sentence
    assert not any(body.get("max_tokens") == 60 for body in stub.seen)


def test_another_bos_of_the_same_length_stops_at_parity(workspace: Path) -> None:
    stub = model(0.2)
    stub.bos = (2,)
    sentence = compared(stub, workspace).findings[0].sentence
    assert sentence.endswith("one word: prompt token 0 is 1 at the baseline, 2 here")


def test_longer_replies_are_another_model(workspace: Path) -> None:
    result = compared(model(0.2, long=3), workspace)
    assert verdicts(result)["output length"] == "DIFFERENT"


def test_without_prompt_logprobs_it_goes_by_accuracy_and_says_so(workspace: Path) -> None:
    stub = model(0.2)
    stub.prompt_logprobs = False
    stub.strict = True
    result = compared(stub, workspace)
    assert result.mode == "paired answers only"
    assert result.exit_code == 0


def test_too_few_questions_stay_open(workspace: Path) -> None:
    result = compared(model(0.2), workspace, limit=10)
    assert verdicts(result)["accuracy, all benchmarks"] == "INCONCLUSIVE"
    assert (result.verdict, result.exit_code) == ("INCONCLUSIVE", 3)


def test_lost_answers_are_counted(workspace: Path) -> None:
    stub = model(0.2)
    stub.broken = ("count 7?", "add 7?")
    result = compared(stub, workspace, patience=Patience(attempts=1))
    assert result.answers["candidate"]["error"] == 2
    assert (
        "2 without an answer"
        in {f.name: f for f in result.findings}["accuracy, all benchmarks"].sentence
    )


def test_a_record_folder_keeps_answers_result_and_report(workspace: Path, tmp_path: Path) -> None:
    stub = model(0.2)
    result = compared(stub, workspace, record_dir=tmp_path)
    asked = len(stub.seen)
    assert json.loads((tmp_path / "result.json").read_text()) == result.to_json()
    assert (tmp_path / "report.md").read_text().startswith("# PASS: tiny against gpu")
    page = (tmp_path / "report.html").read_text()
    assert "tiny is the same model as gpu" in page
    assert "Greedy replies still equal" in page
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 3 * N
    with serving(stub):  # another port: the answers of another endpoint do not count
        compare(Endpoint(stub.url, name="tiny"), "gpu", workspace=workspace, record_dir=tmp_path)
    assert len(stub.seen) == 2 * asked


def test_two_recordings_compare_without_any_endpoint(workspace: Path, tmp_path: Path) -> None:
    with serving(model(0.35)) as stub:
        folder = workspace / "examples" / "tiny"
        other = record(
            Endpoint(stub.url), tmp_path / "b.jsonl.gz", benchmarks=folder, concurrency=(8,)
        )
    assert other.noise_floor == {}
    result = compare(other, bundle(workspace))
    assert result.mode == "paired answers only"
    assert result.verdict == "FAIL"
    assert compare(bundle(workspace), bundle(workspace)).verdict == "PASS"


def test_a_live_baseline_is_recorded_for_a_recorded_candidate(
    workspace: Path, tmp_path: Path
) -> None:
    with serving(model(0.2)) as stub:
        result = compare(
            bundle(workspace),
            Endpoint(stub.url),
            benchmarks=workspace / "examples" / "tiny",
            record_dir=tmp_path,
            concurrency=3,
        )
    assert result.verdict == "PASS"
    assert result.baseline["concurrency"] == [3, 12]
    assert len(read_bundle(tmp_path / "baseline.jsonl.gz").items) == 3 * N


def test_a_published_table_against_a_live_endpoint(workspace: Path) -> None:
    result = compared(model(0.5), workspace, baseline="paper")
    assert result.mode == "published totals"
    assert verdicts(result) == {"GSM8K": "FAIL", "BBH": "INFO"}


def test_a_table_whose_benchmarks_are_not_here(workspace: Path) -> None:
    (workspace / "env" / "baselines" / "other.yaml").write_text(
        "scores: {BBH: {n: 10, value: 50}}\n"
    )
    with pytest.raises(UsageError, match=r"holds published scores of BBH, and none of these is in"):
        compared(model(0.2), workspace, baseline="other")


def test_both_sides_from_one_table(workspace: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("task,n,base,cand\nMMLU,14042,85.34,85.61\nBBH,,TBD,1\n")
    assert compare(from_table=path, workspace=workspace).verdict == "PASS"


def test_an_unknown_baseline_names_the_known_ones(workspace: Path) -> None:
    with pytest.raises(UsageError, match="no baseline `h100`") as error:
        compared(model(0.2), workspace, baseline="h100")
    assert error.value.hint is not None
    assert "paper, tiny/gpu" in error.value.hint


def test_an_unknown_suite(workspace: Path) -> None:
    with pytest.raises(UsageError, match="unknown suite `slow`"):
        compare("x", "gpu", workspace=workspace, suite="slow")


def test_a_recording_as_large_as_a_suite_asks(workspace: Path, tmp_path: Path) -> None:
    stub, folder = model(0.2), workspace / "examples" / "tiny"
    with serving(stub):
        found = record(
            Endpoint(stub.url),
            tmp_path / "b.jsonl.gz",
            benchmarks=folder,
            concurrency=(16,),
            suite="standard",
            limit=40,
        )
    assert (len(found.answers), len(found.passages)) == (120, 120)  # of 256 that it may hold
    with pytest.raises(UsageError, match="unknown suite `slow`"):
        record(Endpoint(stub.url), tmp_path / "b", benchmarks=folder, suite="slow")


def test_an_incomplete_recording_is_not_written(workspace: Path, tmp_path: Path) -> None:
    stub = model(0.2)
    stub.broken = ("count 7?",)
    folder = workspace / "examples" / "tiny"
    with serving(stub), pytest.raises(EvalError, match="1 of 450 questions got no answer"):
        record(
            Endpoint(stub.url),
            tmp_path / "b.jsonl.gz",
            benchmarks=folder,
            patience=Patience(attempts=1),
        )
    assert list(tmp_path.iterdir()) == []
