"""`flagdeploy serve` as a new user types it: mistakes are named at once, and nothing is touched."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import flagdeploy
from flagdeploy.cli.app import app

ROOT = Path(__file__).parents[2]
ERRORS = yaml.safe_load((ROOT / "tests/cases/errors/serve.yaml").read_text())
CASES = ERRORS["cases"]


def contents(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    for folder in ("env", "hostfiles"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    shutil.copytree(ROOT / "examples/deepseek_r1", tmp_path / "examples/deepseek_r1")
    (tmp_path / "examples/deepseek_r1/serve/mine.yaml").write_text(ERRORS["sound"])
    return tmp_path


@pytest.mark.parametrize("dry_run", [False, True], ids=["serve", "dry-run"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_bad_input(
    case: dict[str, Any], dry_run: bool, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("FLAGDEPLOY_RUNS", raising=False)
    if "variant" in case:
        (workspace / "examples/deepseek_r1/serve/mine.yaml").write_text(case["variant"])
    before = contents(workspace)
    words = case.get("arguments", ["deepseek_r1", "mine"]) + case.get("overrides", [])
    words += ["--workspace", str(workspace), *(["--dry-run"] if dry_run else [])]
    result = CliRunner().invoke(app, ["serve", *words])
    assert result.stderr.replace(str(workspace), "WORKSPACE") == f"error: {case['error']}\n"
    assert result.exit_code == 2
    assert result.stdout == ""
    assert contents(workspace) == before


def test_what_the_cases_start_from_is_sound(workspace: Path) -> None:
    words = ["deepseek_r1", "mine", "--workspace", str(workspace), "--json"]
    result = CliRunner().invoke(app, ["plan", *words])
    assert result.exit_code == 0, result.stderr
    assert len(json.loads(result.stdout)["steps"]) == 7


VARIANTS = [
    (path.parts[-3], path.stem) for path in sorted((ROOT / "examples").glob("*/serve/*.yaml"))
]


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_the_port_of_every_shipped_example_can_be_chosen(name: str, variant: str) -> None:
    words = [name, variant, "--port", "9431", "--dry-run", "--json", "--workspace", str(ROOT)]
    result = CliRunner().invoke(app, ["serve", *words])
    assert result.exit_code == 0, result.stderr
    steps = json.loads(result.stdout)["steps"]
    assert {step["port"] for step in steps if step["step"] == "WaitReady"} == {9431}
    starts = [step["spec"]["argv"] for step in steps if step["step"] == "Start"]
    assert "9431" in starts[0]


PAIRS = ROOT / "tests" / "cases" / "flagscale" / "examples"


@pytest.mark.parametrize("pair", sorted(path.name for path in PAIRS.iterdir()))
def test_the_port_of_every_flagscale_pair_can_be_chosen(
    pair: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `deploy` in its old place, in the new one, or without any; each has another port."""
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    words = ["serve", "--from-flagscale", str(PAIRS / pair), "--dry-run", "--json"]
    words += ["container.image=i:1", "--workspace", str(ROOT)]
    steps = {}
    for port in ([], ["--port", "9431"]):
        result = CliRunner().invoke(app, [*words, *port])
        assert result.exit_code == 0, result.stderr
        steps[bool(port)] = json.loads(result.stdout)["steps"]
    own = next(step["port"] for step in steps[False] if step["step"] == "WaitReady")
    assert {step["port"] for step in steps[True] if step["step"] == "WaitReady"} == {9431}
    first, second = (
        next(step["spec"]["argv"] for step in steps[chosen] if step["step"] == "Start")
        for chosen in (False, True)
    )
    assert second == ["9431" if word == str(own) else word for word in first] != first


@pytest.mark.parametrize("pair", sorted(path.name for path in PAIRS.iterdir()))
def test_a_flagscale_pair_is_planned_as_it_is(
    pair: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    monkeypatch.chdir(tmp_path)
    words = ["serve", "--from-flagscale", str(PAIRS / pair), "--dry-run", "--port", "9431"]
    words += ["container.image=i:1", "--workspace", str(ROOT)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.stderr
    assert ":9431/v1/completions" in result.stdout
    assert "hf_canary" not in result.output


def test_a_missing_flagscale_pair_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["serve", "--from-flagscale", str(tmp_path / "no")])
    assert (result.exit_code, result.stderr) == (
        2,
        f"error: {tmp_path}/no: no such file or folder\n",
    )
    result = CliRunner().invoke(app, ["serve", "deepseek_r1", "--from-flagscale", str(tmp_path)])
    assert (result.exit_code, result.stderr) == (
        2,
        "error: `deepseek_r1`: --from-flagscale says what is served, only KEY=VALUE goes with it\n",
    )


class Foreground:
    """`flagdeploy serve tiny_deepseek_r1 --foreground` in a workspace of its own."""

    def __init__(self, workspace: Path) -> None:
        for folder in ("env", "examples", "hostfiles"):
            (workspace / folder).symlink_to(ROOT / folder)
        shipped = ROOT / "examples/tiny_deepseek_r1/checkpoint"
        flagdeploy.dequant(shipped, out=workspace / "models/tiny_deepseek_r1-bf16")
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.setting = f"endpoint.port={server.getsockname()[1]}"
        self.workspace = str(workspace)
        words = ["serve", "tiny_deepseek_r1", self.setting, "--foreground", "--workspace"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flagdeploy", *words, self.workspace],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        self.lines = self.process.stdout
        self.until("POST /v1/completions 200")

    def until(self, text: str) -> None:
        assert any(text in line for line in self.lines), self.process.communicate()

    def command(self, *words: str) -> Any:
        words = (words[0], "tiny_deepseek_r1", *words[1:], "--workspace", self.workspace)
        return CliRunner().invoke(app, words)


def test_a_deployment_in_the_foreground(tmp_path: Path) -> None:
    """Its logs are shown, a second `serve` changes nothing, Ctrl-C stops it."""
    foreground = Foreground(tmp_path)
    again = foreground.command("serve", foreground.setting, "--json")
    assert json.loads(again.stdout)["changed"] is False
    ready = json.loads(foreground.command("status", "--json").stdout)
    assert [found["state"] for found in ready["deployments"]] == ["ready"]
    line = json.loads(foreground.command("logs", "--tail", "1", "--json").stdout)
    assert (line["rank"], line["host"]) == (0, "localhost")
    assert "POST /v1/completions 200" in line["text"]
    foreground.process.send_signal(signal.SIGINT)
    assert "interrupted" in foreground.process.communicate()[1]
    assert foreground.process.returncode == 130
    assert foreground.command("status").stdout == "nothing is running\n"


def test_an_engine_that_ends_in_the_foreground_is_a_failure(tmp_path: Path) -> None:
    foreground = Foreground(tmp_path)
    state = next((tmp_path / "runs/local").glob("*/state.json"))
    supervisor = json.loads(state.read_text())["pid"]
    engine = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text()
    os.kill(int(engine), signal.SIGKILL)
    assert "rank 0 is dead" in foreground.process.communicate()[1]
    assert foreground.process.returncode == 1
    assert foreground.command("status").stdout == "nothing is running\n"
