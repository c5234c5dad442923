"""Checkpoints that load, and why others do not."""

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from flagdeploy.errors import CheckpointError, EngineError, UsageError
from flagdeploy.server.__main__ import parse
from flagdeploy.server.model import LoadOptions, load

DOWN = "model.layers.1.mlp.experts.2.down_proj.weight"


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    shutil.copytree(checkpoint, tmp_path / "copy")
    return tmp_path / "copy"


def edit_config(directory: Path, **fields: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def edit_tensors(directory: Path, **tensors: Any) -> None:
    """Replace tensors by name (dots written as __); None removes one."""
    path = directory / "model.safetensors"
    new = load_file(path) | {name.replace("__", "."): value for name, value in tensors.items()}
    kept = {name: value for name, value in new.items() if value is not None}
    save_file(kept, path, metadata={"format": "pt"})


def test_a_right_checkpoint_loads_without_a_word(
    checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    loaded = load(LoadOptions(directory=checkpoint))
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    assert (loaded.max_model_len, loaded.eos) == (512, {1})
    output = capfd.readouterr()  # the MTP layer in the file is not worth a warning
    assert (output.out, output.err) == ("", "")


@pytest.mark.parametrize(("dtype", "expected"), [("bfloat16", "bfloat16"), ("auto", "bfloat16")])
def test_dtypes(checkpoint: Path, dtype: str, expected: str) -> None:
    model = load(LoadOptions(directory=checkpoint, dtype=dtype)).model
    assert model.lm_head.weight.dtype == getattr(torch, expected)


def test_dummy_weights_come_from_the_seed(checkpoint: Path) -> None:
    def weights(seed: int) -> Any:
        options = LoadOptions(directory=checkpoint, load_format="dummy", seed=seed)
        return load(options).model.lm_head.weight

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


QUANTIZED = {
    "fp8": {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}},
    "compressed-tensors pack-quantized": {
        "quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized"}
    },
}
TENSORRT_LLM = {
    "hf_quant_config.json": {"quantization": {"quant_algo": "MIXED_PRECISION"}},
    "quant_cfg.json": {
        "quantized_layers": {
            "model.layers.1.self_attn.o_proj": {"quant_algo": "FP8_BLOCK_SCALES"},
            "model.layers.1.mlp.experts": {"quant_algo": "W4A8_AWQ"},
            "model.layers.2.mlp.experts": {"quant_algo": "W4A8_AWQ"},
        }
    },
}


def refusal(directory: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(LoadOptions(directory=directory))
    assert caught.value.hint == "convert it first: flagdeploy dequant --to bf16"
    return str(caught.value)


@pytest.mark.parametrize("name", QUANTIZED)
def test_a_quantized_checkpoint_is_refused(copy: Path, name: str) -> None:
    edit_config(copy, **QUANTIZED[name])
    assert refusal(copy) == (
        f"{copy}/config.json: the checkpoint is quantized ({name}); the pytorch engine computes on "
        "plain weights"
    )


def test_one_quantized_for_tensorrt_llm_is_refused(copy: Path) -> None:
    """Its config.json says nothing of it."""
    files = list(TENSORRT_LLM.items())
    for (file, content), named in zip(
        files, ("MIXED_PRECISION", "MIXED_PRECISION of FP8_BLOCK_SCALES and W4A8_AWQ"), strict=True
    ):
        (copy / file).write_text(json.dumps(content))
        assert refusal(copy) == (
            f"{copy}/hf_quant_config.json: the checkpoint is quantized ({named}); the pytorch "
            "engine computes on plain weights"
        )
    load(LoadOptions(directory=copy, load_format="dummy"))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {DOWN: None},
            "1 tensors of another shape: model.layers.1.mlp.experts.down_proj is [7, 128, 64], "
            "expected [8, 128, 64]",
        ),
        ({"lm_head.weight": None}, "1 missing tensors: lm_head.weight"),
        (
            {"model.norm.weight": torch.ones(64)},
            "1 tensors of another shape: model.norm.weight is [64], expected [128]",
        ),
        (
            {"model.layers.0.mlp.gate_proj.weight_scale_inv": torch.ones(1)},
            "1 tensors the architecture does not have: "
            "model.layers.0.mlp.gate_proj.weight_scale_inv",
        ),
    ],
)
def test_an_incomplete_checkpoint_is_refused_by_name(
    copy: Path, tensors: dict[str, Any], message: str
) -> None:
    edit_tensors(copy, **tensors)
    with pytest.raises(CheckpointError) as caught:
        load(LoadOptions(directory=copy))
    assert str(caught.value) == f"{copy}: {message}"


def test_a_torn_file_is_refused(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=f"^{copy}: "):
        load(LoadOptions(directory=copy))


def test_a_directory_that_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        load(LoadOptions(directory=tmp_path))
    assert str(caught.value) == f"{tmp_path}/config.json: not found"


def test_devices_and_lengths_that_do_not_exist(checkpoint: Path) -> None:
    with pytest.raises(EngineError, match="^device 'cuda:77' is not usable: "):
        load(LoadOptions(directory=checkpoint, device="cuda:77"))
    with pytest.raises(UsageError) as caught:
        load(LoadOptions(directory=checkpoint, max_model_len=513))
    message = "--max-model-len 513 is beyond the model's max_position_embeddings=512"
    assert str(caught.value) == message


def test_sliding_windows_are_refused(copy: Path) -> None:
    config = {
        "model_type": "mistral",
        "architectures": ["MistralForCausalLM"],
        "vocab_size": 260,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "sliding_window": 16,
        "max_position_embeddings": 64,
    }
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(EngineError) as caught:
        load(LoadOptions(directory=copy, load_format="dummy"))
    message = "the pytorch engine serves full attention only; mistral has other layers"
    assert str(caught.value) == message


def test_a_taken_port_is_found_before_the_weights_are_read(checkpoint: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = ["-m", "flagdeploy.server", "--model", str(checkpoint), "--port", str(port)]
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith(f" ERROR cannot listen on 127.0.0.1:{port}: Address already in use")


def test_wrong_arguments_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["--model", "x", "--max-num-seqs", "0"])
    assert caught.value.code == 2
    assert "argument --max-num-seqs: must be at least 1, got 0" in capsys.readouterr().err
