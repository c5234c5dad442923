"""`flagdeploy calibrate` as it is typed."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flagdeploy.cli.app import app

EXAMPLE = Path(__file__).parents[2] / "examples" / "tiny_deepseek_r1"


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("2\n")
    return path


def test_runs_and_warns(prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["calibrate", "--ckpt", str(EXAMPLE / "checkpoint"), "--prompts", str(prompts)]
    done = CliRunner().invoke(app, [*arguments, "--raw"])
    assert done.exit_code == 0
    assert done.stdout.startswith(
        "act_scales.safetensors: scales of 16 experts in 2 layer(s), from 1 prompt(s) of 2 tokens; "
        "an expert saw 0 to "
    )
    assert "\nrunning prompts 2 of 2 tokens\n" in done.stderr
    assert "\nwarning: no token reached these experts, which got the largest " in done.stderr
    again = CliRunner().invoke(app, [*arguments, "--raw", "--json", "-q"])
    data = json.loads(again.stdout)
    assert (data["prompts"], data["tokens"]) == (1, 2)
    assert sum(data["tokens_per_expert"]["2"]) == 4
    assert {layer: set(found) for layer, found in data["without_tokens"].items()} == {
        layer: {expert for expert, count in enumerate(counts) if not count}
        for layer, counts in data["tokens_per_expert"].items()
    }
    assert again.stderr.startswith("warning: no token reached")


def test_the_checkpoint_of_a_deployment(prompts: Path, tmp_path: Path) -> None:
    (tmp_path / "env").symlink_to(EXAMPLE.parents[1] / "env")
    (tmp_path / "examples").symlink_to(EXAMPLE.parent)
    arguments = ["calibrate", "tiny_deepseek_r1", "--prompts", str(prompts)]
    done = CliRunner().invoke(app, [*arguments, "--workspace", str(tmp_path)])
    assert done.exit_code == 1
    assert done.stderr == (
        f"error: {tmp_path}/models/tiny_deepseek_r1: no such folder\n\n"
        "hint: flagdeploy pull fetches a checkpoint\n"
    )


def test_prompts_are_needed() -> None:
    done = CliRunner().invoke(app, ["calibrate"])
    assert done.exit_code == 2
    assert "Missing option '--prompts'" in done.stderr
