"""What a reader is told of a baseline."""

from pathlib import Path

from flagdeploy.evals.bundle import Bundle
from flagdeploy.evals.tables import read_table
from flagdeploy.evals.teacher_forcing import Passage, Position
from flagdeploy.workflows.baseline_summary import summary

ENDPOINT = {"model": "m", "version": None, "max_model_len": 9, "prompt_logprobs": 20}
MANIFEST = {"created": "today", "flagdeploy": "0", "endpoint": ENDPOINT, "benchmarks": []}


def test_a_recording() -> None:
    manifest = {**MANIFEST, "facts": {"of": "tiny/h200"}}
    assert summary(Bundle("h200", manifest, (), (), (), ())) == (
        "h200: m, recorded today with flagdeploy 0\n"
        "engine version unknown, context 9, 20 log-probabilities per prompt token\n"
        "of: tiny/h200\n"
        "0 sequences of 0 tokens, 0 prompts"
    )


def test_a_table(tmp_path: Path) -> None:
    table = tmp_path / "h100.yaml"
    table.write_text("title: H100\nscores: {MMLU: {n: 14042, value: 85.34}}\n")
    assert summary(read_table(table)) == "H100 ()\n  MMLU         85.34% of 14042"


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
