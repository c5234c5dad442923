"""Recording baselines, and those that ship; whole recordings are in test_compare.py."""

import subprocess
import sys
from pathlib import Path

from flagdeploy.evals.benchmarks import load_benchmarks
from flagdeploy.evals.bundle import fingerprint, read_bundle
from flagdeploy.evals.items import questions
from flagdeploy.evals.tables import read_table


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
