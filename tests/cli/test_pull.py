"""`flagdeploy pull` as it is typed."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoint.deepseek_layout import deepseek
from checkpoint.hub_server import Hub, serve
from typer.testing import CliRunner

from flagdeploy.cli.app import app

COMMIT = "c" * 40


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return deepseek().write(tmp_path / "R1")


@pytest.fixture
def hub(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    for folder in ("examples", "env"):
        (tmp_path / "workspace" / folder).mkdir(parents=True)
    monkeypatch.setenv("FLAGDEPLOY_HOME", str(tmp_path / "workspace"))
    files = {path.name: path.read_bytes() for path in source.iterdir()}
    with serve(Hub("deepseek-ai/DeepSeek-R1", {COMMIT: files}, {"main": COMMIT})) as hub:
        yield hub


def test_a_repository_goes_into_the_workspace(hub: Hub, tmp_path: Path) -> None:
    arguments = ["pull", "--ckpt", "deepseek-ai/DeepSeek-R1", "--endpoint", hub.endpoint]
    done = CliRunner().invoke(app, arguments)
    folder = tmp_path / "workspace" / "models" / "DeepSeek-R1"
    assert done.stdout == (
        f"{folder}: pulled: deepseek-ai/DeepSeek-R1 at cccccccccccc, 849.0 kB, verified\n"
    )
    assert done.exit_code == 0
    again = CliRunner().invoke(app, [*arguments, "--json", "--quiet"])
    data = json.loads(again.stdout)
    assert (data["outcome"], data["commit"]) == ("already here", COMMIT)
    assert again.stderr == ""


def test_a_token_comes_from_the_environment(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token = "hf_canaryCanaryCanaryCanary0123456789"
    arguments = ["pull", "--ckpt", "deepseek-ai/DeepSeek-R1", "--endpoint", hub.endpoint]
    without = CliRunner().invoke(app, arguments)
    assert without.exit_code == 1
    assert "for a private model set HF_TOKEN" in without.stderr
    monkeypatch.setenv("HF_TOKEN", hub.token)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    assert hub.token not in done.output


def test_a_folder_is_verified_where_it_is(source: Path) -> None:
    done = CliRunner().invoke(app, ["pull", "--ckpt", str(source)])
    assert done.exit_code == 0
    assert done.stdout == f"{source}: verified in place, 849.0 kB\n"


def test_a_damaged_folder_fails_naming_the_shard(source: Path) -> None:
    (source / "model-00002-of-000003.safetensors").unlink()
    done = CliRunner().invoke(app, ["pull", "--ckpt", str(source)])
    assert done.exit_code == 1
    assert "model-00002-of-000003.safetensors: missing: the index names it" in done.stderr
