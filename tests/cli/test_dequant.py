"""`flagdeploy dequant` as it is typed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoint.deepseek_layout import deepseek
from typer.testing import CliRunner

from flagdeploy.cli.app import app


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return deepseek().write(tmp_path / "R1")


def test_converts_and_says_where(source: Path) -> None:
    done = CliRunner().invoke(app, ["dequant", "--ckpt", str(source), "--to", "bf16"])
    assert done.exit_code == 0
    assert done.stdout == (
        f"{source}-bf16: 3 shard(s), 1.5 MB of bf16: 3 shard(s) written, verified\n"
    )
    assert done.stderr == "to bf16 839.6 kB of 839.6 kB\n"


def test_dry_run_as_json(source: Path) -> None:
    arguments = ["dequant", "--ckpt", str(source), "--dry-run", "--drop-mtp", "--json"]
    done = CliRunner().invoke(app, arguments)
    data = json.loads(done.stdout)
    assert (data["outcome"], data["folder"]) == ("planned", f"{source}-bf16")
    assert data["plan"]["converted"] == 12
    assert not Path(f"{source}-bf16").exists()


def test_unknown_formats_are_a_usage_error(source: Path) -> None:
    done = CliRunner().invoke(app, ["dequant", "--ckpt", str(source), "--to", "int3"])
    assert done.exit_code == 2
    assert done.stderr == (
        "error: --to int3: unknown format\n\nhint: known are bf16, fp16, fp32, fp8, w4afp8\n"
    )


def test_w4afp8_without_activation_scales_is_a_usage_error(source: Path) -> None:
    done = CliRunner().invoke(app, ["dequant", "--ckpt", str(source), "--to", "w4afp8"])
    assert done.exit_code == 2
    assert done.stderr.startswith(
        "error: --to w4afp8: needs the activation scales of the experts\n\nhint: give a calibrated"
    )


def test_a_missing_checkpoint_fails(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["dequant", "--ckpt", str(tmp_path / "none")])
    assert done.exit_code == 1
    assert done.stderr == (
        f"error: {tmp_path}/none: no such folder\n\nhint: flagdeploy pull fetches a checkpoint\n"
    )


def test_loads_nothing_heavy(source: Path) -> None:
    code = (
        "import sys; from flagdeploy.workflows.dequant import dequant; dequant(sys.argv[1]);"
        "print(sorted({'torch', 'safetensors', 'ml_dtypes', 'huggingface_hub', 'paramiko',"
        " 'docker', 'transformers', 'asyncio', 'requests', 'aiohttp'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(source)], check=True, capture_output=True, text=True
    )
    assert done.stdout == "[]\n"
