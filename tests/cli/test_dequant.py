"""`flagdeploy dequant` as it is typed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoint.deepseek_layout import deepseek
from typer.testing import CliRunner

from flagdeploy.cli.app import app
from flagdeploy.cli.output import Output
from flagdeploy.records.events import Event


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
        "error: --to w4afp8: needs the activation scales of the experts\n\n"
        "hint: record them (flagdeploy calibrate"
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


def test_the_share_of_a_rank(source: Path) -> None:
    arguments = ["dequant", "--ckpt", str(source), "--rank", "1", "--world-size", "3"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    assert done.stdout == (
        f"{source}-bf16: rank 1 of 3: 1 of its 1 shard(s) written now, all are there; "
        "2 of 3 shard(s) are missing of other ranks, the last of which completes the folder\n"
    )


def test_in_place(source: Path) -> None:
    arguments = ["dequant", "--ckpt", str(source), "--in-place"]
    planned = CliRunner().invoke(app, [*arguments, "--dry-run", "--json"])
    assert json.loads(planned.stdout)["space"]["peak"] > json.loads(planned.stdout)["space"]["end"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    assert done.stdout == f"{source}: 3 shard(s), 1.5 MB of bf16: 3 written in place, verified\n"
    assert "quantization_config" not in json.loads((source / "config.json").read_text())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rank", "one", "--world-size", "2"], "--rank one: is neither a number nor auto"),
        (["--rank", "1"], "--rank needs --world-size"),
        (["--rank", "auto"], "--rank auto: no srun, mpirun or torchrun started this process"),
        (["--on", "moon"], "--on moon: unknown"),
        (["--on", "hosts"], "--on hosts and --hosts FILE go together"),
        (["--hosts", "hosts.txt"], "--on hosts and --hosts FILE go together"),
        (["--on", "ray", "--rank", "1"], "--on ray: makes the ranks itself"),
        (["--on", "ray", "--python", "python3"], "--python: is for --on hosts"),
        (["--ray-address", "auto"], "--ray-address: is for --on ray"),
        (["--in-place", "--out", "x"], "--in-place: goes with none of --out, --rank, --world-"),
    ],
)
def test_options_that_do_not_go_together(source: Path, options: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["dequant", "--ckpt", str(source), *options])
    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: {message}")
    assert not Path(f"{source}-bf16").exists()


def test_rates_are_shown_while_it_takes_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter([0.0, 0.0, 10.0, 20.0])
    monkeypatch.setattr("flagdeploy.cli.output.time.monotonic", lambda: next(seconds))
    with Output().progress() as report:
        for done in (2_000_000_000, 4_000_000_000, 8_000_000_000):
            report(Event("convert", "to bf16", done=done, total=8_000_000_000, unit="B"))
    assert capsys.readouterr().err.splitlines() == [
        "to bf16 2.0 GB of 8.0 GB",
        "to bf16 4.0 GB of 8.0 GB, 200.0 MB/s, 20 s left",
        "to bf16 8.0 GB of 8.0 GB",
    ]
