"""Recording and finding baselines; whole recordings are in test_compare.py."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from flagdeploy.errors import UsageError
from flagdeploy.evals.answers import Answer
from flagdeploy.evals.benchmarks import load_benchmarks
from flagdeploy.evals.bundle import Bundle, fingerprint, read_bundle, write_bundle
from flagdeploy.evals.items import Item, questions
from flagdeploy.evals.tables import Table, read_table
from flagdeploy.evals.teacher_forcing import Passage, Position
from flagdeploy.workflows.baseline import choose, summary
from flagdeploy.workflows.sides import check_baseline, deployed, endpoint_of, find, names

ENDPOINT = {"model": "m", "version": None, "max_model_len": 9, "prompt_logprobs": 20}
MANIFEST = {"created": "today", "flagdeploy": "0", "endpoint": ENDPOINT, "benchmarks": []}


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "env" / "baselines"
    for name in ("tiny/h200", "big/h200", "big/h100"):
        bundle = Bundle(name, {**MANIFEST, "facts": {"of": name}}, (), (), (), ())
        write_bundle(folder / f"{name}.jsonl.gz", bundle)
    (folder / "h100.yaml").write_text("title: H100\nscores: {MMLU: {n: 14042, value: 85.34}}\n")
    return tmp_path


def test_names(workspace: Path) -> None:
    assert names(workspace) == ["big/h100", "big/h200", "h100", "tiny/h200"]


def test_the_bundle_of_the_deployment_comes_before_the_published_table(workspace: Path) -> None:
    found = find("h100", workspace, "big")
    assert isinstance(found, Bundle)
    assert found.manifest["facts"] == {"of": "big/h100"}


def test_a_deployment_without_a_bundle_gets_the_table(workspace: Path) -> None:
    assert isinstance(find("h100", workspace, "tiny"), Table)
    assert isinstance(find("h100", workspace), Table)


def test_a_name_that_two_deployments_share_needs_the_deployment(workspace: Path) -> None:
    for name, deployment in (("h200", "tiny"), ("tiny/h200", None)):
        found = find(name, workspace, deployment)
        assert isinstance(found, Bundle)
        assert found.manifest["facts"] == {"of": "tiny/h200"}
    with pytest.raises(UsageError, match="no baseline `h200`"):
        find("h200", workspace)


def test_another_deployments_bundle_is_never_taken_silently(workspace: Path) -> None:
    with pytest.raises(UsageError, match="no baseline `h200`"):
        find("h200", workspace, "another")


def test_a_path(workspace: Path) -> None:
    path = workspace / "env" / "baselines" / "tiny" / "h200.jsonl.gz"
    assert find(str(path), Path("/nowhere")) == read_bundle(path)


def test_what_cannot_be_a_baseline_is_said_before_anything_is_asked(workspace: Path) -> None:
    check_baseline("h200", workspace)
    check_baseline("http://host", workspace)
    for name in ("h300", None):
        with pytest.raises(UsageError) as error:
            check_baseline(name, workspace)
        assert error.value.hint == "there are: big/h100, big/h200, h100, tiny/h200"


def test_the_key_for_a_url_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLAGDEPLOY_API_KEY", raising=False)
    assert endpoint_of("http://h", Path()).api_key is None
    monkeypatch.setenv("FLAGDEPLOY_API_KEY", "canary")
    key = endpoint_of("http://h", Path()).api_key
    assert key is not None
    assert key.reveal() == "canary"


def test_the_configuration_of_a_served_deployment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLAGDEPLOY_RUNS", str(tmp_path))
    endpoint = endpoint_of("http://h", tmp_path)
    assert deployed(endpoint, tmp_path) is None
    for stamp, tensor in (("20260101T000000Z", 4), ("20260102T000000Z", 8)):
        folder = tmp_path / f"{stamp}-tiny-00ff"
        folder.mkdir()
        (folder / "config.yaml").write_text(f"parallel: {{tensor: {tensor}}}\n")
    assert deployed(replace(endpoint, name="tiny"), tmp_path) == {"parallel": {"tensor": 8}}


def answered(task: str, number: int, known: bool = True) -> tuple[Item, Answer]:
    key = f"{task}{number:03}"
    ids = [1, 2] if known else None
    answer = Answer(
        key, key, task, "ok", "1", "1", 1.0, "1", "stop", 2, 1, 200, 1, 0.0, 1.0, None, ids, ids
    )
    return Item(key, task, "gsm8k", (), "1", key, 9), answer


def test_sequences_are_taken_in_turn_from_every_benchmark() -> None:
    rows = [answered("a", i) for i in range(50)] + [answered("b", i) for i in range(3)]
    chosen = choose([item for item, _ in rows], [answer for _, answer in rows], 8)
    assert [passage.task for passage in chosen] == ["a", "b", "a", "b", "a", "b", "a", "a"]
    assert len({passage.key for passage in chosen}) == 8


def test_answers_without_token_ids_are_no_sequences() -> None:
    rows = [answered("a", i, known=i > 3) for i in range(6)]
    assert len(choose([item for item, _ in rows], [answer for _, answer in rows], 64)) == 2


def test_summaries(workspace: Path) -> None:
    assert summary(find("tiny/h200", workspace)) == (
        "h200: m, recorded today with flagdeploy 0\n"
        "engine version unknown, context 9, 20 log-probabilities per prompt token\n"
        "of: tiny/h200\n"
        "0 sequences of 0 tokens, 0 prompts"
    )
    assert summary(find("h100", workspace)) == "H100 ()\n  MMLU         85.34% of 14042"


def test_the_summary_of_a_recording_says_what_another_must_match() -> None:
    position = Position(-0.1, {1: -0.1})
    passage = Passage("k", "t", (1,), (1, 2), (position,), "S", (position,))
    manifest = {
        **MANIFEST,
        "facts": {},
        "modes": ["S", "D"],
        "lock_sha256": "ab" * 32,
        "checkpoint": {"sha256": "cd" * 32},
        "noise_floor": {"runs": 2, "top1": 0.001, "decoded": {"top1": 0.002, "sequences": {}}},
    }
    assert summary(Bundle("b", manifest, (), (), (), (passage,))).splitlines()[2:] == [
        "configuration sha256 abababababababab",
        "checkpoint sha256 cdcdcdcdcdcdcdcd",
        "1 sequences of 2 tokens, scored in mode S and D, 0 prompts",
        "noise floor over 2 runs: top1 0.001",
        "noise floor of mode D: top1 0.002",
    ]


def test_the_shipped_tables_can_be_read() -> None:
    folder = Path(__file__).parents[2] / "env" / "baselines"
    for path in folder.glob("*.yaml"):
        assert read_table(path).source


def test_recording_needs_no_library_of_the_other_commands() -> None:
    # A machine with an accelerator may lack these; blocking an import makes it fail.
    code = """
import sys
for name in ("omegaconf", "paramiko", "docker", "huggingface_hub"):
    sys.modules[name] = None
import flagdeploy.cli.app, flagdeploy.workflows.baseline, flagdeploy.workflows.compare
import flagdeploy.cli.baseline
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_shipped_recording_is_of_the_shipped_model_and_questions() -> None:
    root = Path(__file__).parents[2]
    path = root / "env" / "baselines" / "tiny_deepseek_r1" / "h200.jsonl.gz"
    example = root / "examples" / "tiny_deepseek_r1"
    recorded = read_bundle(path)
    assert list(recorded.items) == questions(load_benchmarks(example))
    assert recorded.manifest["checkpoint"] == fingerprint(example / "checkpoint")
    assert recorded.manifest["facts"]["device"] == "NVIDIA H200"
    assert {answer.status for answer in recorded.answers} == {"ok"}
    assert 0.6 < sum(answer.score or 0.0 for answer in recorded.answers) / 1000 < 0.95
    assert len(recorded.passages) == 64
    assert recorded.noise_floor["discordant"] == 0.0
    assert path.stat().st_size < 3_000_000
