"""Comparisons with what other tools recorded, named as a user names them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from evals.stub_endpoint import Stub, serving

from flagdeploy.errors import EvalError, UsageError
from flagdeploy.evals.client import Endpoint
from flagdeploy.evals.comparison import CompareResult
from flagdeploy.workflows.baseline import record
from flagdeploy.workflows.compare import compare

CASES = Path("tests/cases/readers").absolute()


def verdicts(result: CompareResult) -> dict[str, str]:
    return {finding.name: str(finding.verdict) for finding in result.findings}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a bundle `gpu` of 40 questions, a table, and the answers of a later run beside."""
    root = tmp_path_factory.mktemp("workspace")
    folder = root / "examples" / "tiny"
    folder.mkdir(parents=True)
    rows = [{"question": f"add {i}?", "answer": f"#### {i}"} for i in range(40)]
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    entry = {"name": "sums", "shape": "gsm8k", "file": "q.jsonl", "prompt": "{question}"}
    benchmark = {"benchmarks": [{**entry, "max_tokens": 60, "margin_pp": 3.0}]}
    (folder / "benchmark.yaml").write_text(yaml.safe_dump(benchmark))
    baselines = root / "env" / "baselines"
    baselines.mkdir(parents=True)
    (baselines / "paper.yaml").write_text("scores: {GSM8K local: {n: 4, value: 75}}\n")
    with serving(Stub(answer)) as stub:
        bundle = baselines / "gpu.jsonl.gz"
        record(Endpoint(stub.url), bundle, benchmarks=folder, concurrency=(4,))
        compare(stub.url, str(bundle), workspace=root, record_dir=root / "run")
    return root


def answer(prompt: str) -> str:
    word, _, rest = prompt.partition(" ")
    return f"<think>hm</think>\\boxed{{{rest.split('?')[0]}}}" if word == "add" else "hello"


def test_files_and_folders_are_compared_offline(workspace: Path) -> None:
    a, b = str(CASES / "lm_eval/a"), str(CASES / "lm_eval/b")
    result = compare(b, a, workspace=workspace, filter_name="flexible-extract")
    assert (result.verdict, result.mode) == ("INCONCLUSIVE", "paired answers only")
    assert result.baseline["grader"] == "lm-eval exact_match (filter flexible-extract)"
    assert result.flip_count == 4


def test_a_margin_counts_for_every_benchmark(workspace: Path) -> None:
    a, b = str(CASES / "evalscope/a"), str(CASES / "evalscope/b")
    result = compare(b, a, workspace=workspace, margin_pp=7.0)
    margins = {f.margin for f in result.findings if f.name.startswith("accuracy")}
    assert {round(margin, 6) for margin in margins if margin} == {7.0}


def test_a_published_table_is_the_baseline_of_recorded_answers(workspace: Path) -> None:
    result = compare(str(CASES / "lm_eval/b"), "paper", workspace=workspace)
    assert result.mode == "published totals"
    assert "75.00% at the baseline, 25.00% here" in result.findings[0].sentence


def test_the_log_of_a_run_is_graded_by_the_questions_of_a_bundle(workspace: Path) -> None:
    for log in ("run", "run/answers.jsonl"):
        result = compare(str(workspace / log), "gpu", workspace=workspace)
        found = {finding.name: finding for finding in result.findings}
        assert found["accuracy, sums"].n == 40
        assert found["accuracy, sums"].sentence.startswith("100.00% at the baseline, 100.00% here")
        assert "asked and graded alike" not in found


def test_replies_of_another_tool_are_graded_by_the_questions_of_a_bundle(
    workspace: Path, tmp_path: Path
) -> None:
    score = {"value": {"acc": 0.0}, "extracted_prediction": "no"}
    reviews = [
        {
            "index": i,
            "target": str(i),
            "messages": [
                {"role": "user", "content": f"add {i}?"},
                {"role": "assistant", "content": answer(f"add {i}?")},
            ],
            "sample_score": {"score": score},
        }
        for i in range(40)
    ]
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in reviews))
    result = compare(str(path), "gpu", workspace=workspace)
    assert "asked and graded alike" not in verdicts(result)
    assert result.candidate["grader"] == "flagdeploy, the rule of the question's shape"
    assert result.flip_count == 0
    assert result.answers["candidate"]["ok"] == 40


@pytest.mark.parametrize(
    ("candidate", "baseline", "message"),
    [
        ("http://127.0.0.1:9/v1", "lm_eval/a", "holds answers to questions as lm-eval asked them"),
        ("paper", "lm_eval/a", "holds recorded answers, the candidate is a table of totals"),
        ("lm_eval/a", "x.refpt", "x.refpt holds tokens for an endpoint to score"),
        ("x.refpt", "lm_eval/a", "x.refpt can be a baseline only: it holds tokens to be scored"),
    ],
)
def test_pairs_of_which_nothing_can_be_said_are_refused(
    workspace: Path, tmp_path: Path, candidate: str, baseline: str, message: str
) -> None:
    shutil.copytree(CASES / "lm_eval", tmp_path / "lm_eval")
    refpt(tmp_path / "x.refpt", 8)
    here = {name: str(tmp_path / name) for name in ("lm_eval/a", "x.refpt")}
    with pytest.raises(UsageError) as raised:
        compare(
            here.get(candidate, candidate),
            here.get(baseline, baseline),
            workspace=workspace,
            benchmarks=workspace / "examples" / "tiny",
            record_dir=tmp_path / "record",
        )
    assert str(raised.value).endswith(message)


def test_a_filter_needs_samples_of_lm_eval(workspace: Path) -> None:
    sides = [str(CASES / "evalscope" / side) for side in "ab"]
    with pytest.raises(UsageError) as raised:
        compare(*sides, workspace=workspace, filter_name="strict-match")
    assert str(raised.value) == "--filter strict-match: only lm-eval's samples have filters"


def test_an_unknown_file_says_what_was_looked_for(workspace: Path, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("GSM8K 95\n")
    with pytest.raises(EvalError, match=r"notes\.txt: no answers of a tool known here") as raised:
        compare(str(path), str(CASES / "lm_eval/a"), workspace=workspace)
    assert raised.value.hint is not None
    assert raised.value.hint.startswith("looked for: lm-eval samples_*.jsonl, evalscope reviews")


def refpt(path: Path, tokens: int) -> Path:
    """What the stub itself predicts of some tokens, as the demos' script saves it."""
    ids = [1, *(ord("a") + i % 26 for i in range(tokens - 1))]
    rows = [Stub().position(ids[: i + 2]) for i in range(tokens - 1)]
    best = [sorted(map(int, row), key=lambda id_: row[str(id_)]["rank"])[:5] for row in rows]
    content = {"reference_tokens": torch.tensor([ids]), "top5_tokens": torch.tensor(best)}
    torch.save(content, path)
    return path


def test_an_endpoint_predicts_the_tokens_of_a_reference(workspace: Path, tmp_path: Path) -> None:
    path = refpt(tmp_path / "tale.refpt", 1000)
    with serving(Stub()) as stub:
        result = compare(stub.url, str(path), workspace=workspace)
    assert verdicts(result) == {
        "teacher-forced top-1 disagreement": "PASS",
        "teacher-forced top-5 misses": "INCONCLUSIVE",
        "top-1 of the text itself": "INFO",
    }
    found = result.findings[0]
    assert (found.estimate, found.n, found.clusters) == (0.0, 499, 62)
    assert result.verdict == "PASS"
    assert result.mode == "teacher forcing on reference tokens"
    assert result.baseline["layout"] == "A"


def test_an_endpoint_that_predicts_other_tokens_is_another_model(
    workspace: Path, tmp_path: Path
) -> None:
    path = refpt(tmp_path / "tale.refpt", 1000)
    with serving(Stub(wrong=0.3)) as stub:
        result = compare(stub.url, str(path), workspace=workspace)
    assert (result.verdict, result.exit_code) == ("DIFFERENT", 1)


def test_an_endpoint_that_scores_no_tokens_is_told(workspace: Path, tmp_path: Path) -> None:
    path = refpt(tmp_path / "tale.refpt", 40)
    with serving(Stub(prompt_logprobs=False)) as stub, pytest.raises(UsageError) as raised:
        compare(stub.url, str(path), workspace=workspace)
    assert "gives no log-probabilities of given tokens" in str(raised.value)
