"""`flagdeploy verify` as it is typed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoint.deepseek_layout import deepseek
from typer.testing import CliRunner

from flagdeploy.cli.app import app
from flagdeploy.workflows.dequant import dequant

SECOND = "model-00002-of-000003.safetensors"
NORM = "model.layers.1.input_layernorm.weight"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return deepseek().write(tmp_path / "R1")


def test_a_whole_checkpoint(source: Path) -> None:
    done = CliRunner().invoke(app, ["verify", "--ckpt", str(source)])
    assert done.exit_code == 0
    assert done.stdout == f"{source}: 3 shard(s), 44 tensors, 839.9 kB: whole (headers and sizes)\n"
    assert done.stderr == ""


def test_a_fault_is_a_line_and_exit_code_1(source: Path) -> None:
    (source / SECOND).unlink()
    (source / "tokenizer.json").unlink()
    done = CliRunner().invoke(app, ["verify", "--ckpt", str(source)])
    assert done.exit_code == 1
    assert done.stdout == (
        f"{SECOND}: missing: the index names it, the folder lacks it\n"
        f"{source}: 3 shard(s), 29 tensors, 621.8 kB: 1 problem(s) (headers and sizes)\n"
    )
    assert done.stderr == (
        "note: the index states total_size 839855, the shards hold 621754 bytes\n"
        "note: there is no tokenizer: none of tokenizer.json, tokenizer.model, "
        "tokenizer_config.json, spiece.model, vocab.json\n"
    )


def test_against_its_source(source: Path) -> None:
    folder = dequant(source, "bf16").folder
    arguments = ["verify", "--ckpt", str(folder), "--against", str(source), "--all"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    first, head, *rows, last = done.stdout.splitlines()
    assert first == f"bf16 of {source}: 26 of 26 tensors computed again"
    assert head == (
        "  class                         tensors  elements  bits       max abs   rel RMS  "
        "worst tensor"
    )
    assert rows[2].startswith("  attention q_a_proj            3        153600    identical  0.00")
    assert rows[4] == (
        "  embeddings                    1        12800     identical  0         0        -"
    )
    assert last == (
        f"{folder}: 3 shard(s), 26 tensors, 1.5 MB: whole (headers and sizes, against the source)"
    )


def test_json_has_everything(source: Path) -> None:
    folder = dequant(source, "bf16").folder
    path = folder / SECOND
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    arguments = ["verify", "--ckpt", str(folder), "--against", str(source), "--all", "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1
    data = json.loads(done.stdout)
    (finding,) = data.pop("findings")
    assert (finding["file"], finding["kind"]) == (SECOND, "differs")
    assert finding["tensor"] == "model.layers.1.self_attn.q_a_proj.weight"
    assert finding["what"].startswith("1 of 51200 elements, the first at [255, 199]: 0x")
    against = data.pop("against")
    assert data == {
        "folder": str(folder),
        "shards": 3,
        "tensors": 26,
        "data_bytes": 1492430,
        "notes": [],
        "checked": ["headers and sizes", "against the source"],
        "ok": False,
    }
    assert (against["source"], against["conversion"]) == (str(source), "bf16")
    classes = {each["name"]: each for each in against["classes"]}
    assert [name for name, each in classes.items() if not each["identical"]] == [
        "attention q_a_proj"
    ]
    assert classes["embeddings"] == {
        "name": "embeddings",
        "tensors": 1,
        "elements": 12800,
        "identical": True,
        "largest": 0.0,
        "relative": 0.0,
        "worst": "",
        "worst_relative": 0.0,
    }


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (
            ["--all"],
            "--all: has no meaning without --against\n\n"
            "hint: add --against SOURCE; --hashes and --nan always read everything",
        ),
        (
            ["--sample", "3"],
            "--sample: has no meaning without --against\n\n"
            "hint: add --against SOURCE; --hashes and --nan always read everything",
        ),
        (
            ["--against", "x", "--sample", "3", "--all"],
            "--sample and --all: give one of them",
        ),
        (
            ["--hashes"],
            "--hashes: no hash is known of any file in SOURCE\n\n"
            "hint: pull records them; a conversion is computed again with --against SOURCE",
        ),
    ],
)
def test_usage(source: Path, words: list[str], error: str) -> None:
    done = CliRunner().invoke(app, ["verify", "--ckpt", str(source), *words])
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.replace(str(source), "SOURCE") == f"error: {error}\n"


def test_a_folder_without_a_checkpoint_fails(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["verify", "--ckpt", str(tmp_path / "none")])
    assert done.exit_code == 1
    assert done.stderr.startswith(f"error: {tmp_path}/none: no such folder\n")


def test_the_deployment_of_the_workspace(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    for name in ("env", "examples"):
        (tmp_path / name).symlink_to(root / name)
    words = ["verify", "tiny_deepseek_r1", "--workspace", str(tmp_path), "--nan", "--quiet"]
    done = CliRunner().invoke(app, words)
    assert done.stderr.startswith(f"error: {tmp_path}/models/tiny_deepseek_r1: no such folder\n")
    (tmp_path / "models").mkdir()
    checkpoint = root / "examples/tiny_deepseek_r1/checkpoint"
    shutil.copytree(checkpoint, tmp_path / "models/tiny_deepseek_r1")
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0
    assert done.stdout == (
        f"{tmp_path}/models/tiny_deepseek_r1: 5 shard(s), 239 tensors, 10.3 MB: whole "
        "(headers and sizes, values)\n"
    )


def test_loads_no_framework(source: Path) -> None:
    code = (
        "import sys; from flagdeploy.workflows.verify import verify; verify(sys.argv[1], nan=True);"
        "print(sorted({'torch', 'safetensors', 'ml_dtypes', 'huggingface_hub', 'paramiko',"
        " 'docker', 'transformers', 'asyncio', 'requests', 'aiohttp', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(source)], check=True, capture_output=True, text=True
    )
    assert done.stdout == "[]\n"
