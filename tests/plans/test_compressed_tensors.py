"""compressed-tensors: what cannot be decoded is named before anything is written."""

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint.deepseek_layout import Layout

from flagdeploy.checkpoint.folder import list_files
from flagdeploy.checkpoint.verify import verify
from flagdeploy.errors import CheckpointError
from flagdeploy.plans.conversion import W4afp8Options, plan_conversion

SHARD = "model-00001-of-00001.safetensors"
EXPERT = "model.layers.0.mlp.experts.0.up_proj.weight"
LINEAR = "model.layers.0.self_attn.o_proj.weight"
INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "symmetric": True}
FP8 = {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]}


def refusal(folder: Path, tensors: dict[str, torch.Tensor], *schemes: dict[str, Any]) -> str:
    groups = {f"group_{i}": {"weights": scheme} for i, scheme in enumerate(schemes)}
    quantization = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": groups,
    }
    config: dict[str, object] = {"quantization_config": quantization}
    whole = verify(Layout({SHARD: tensors}, config).write(folder)).require()
    with pytest.raises(CheckpointError) as caught:
        plan_conversion(whole, dict.fromkeys(list_files(folder), 0), "bf16", W4afp8Options())
    return str(caught.value).removeprefix(f"{folder}: ")


@pytest.mark.parametrize(
    ("scheme", "stated"),
    [
        (
            INT4 | {"group_size": 32},
            "num_bits 4, type int, strategy group, group_size 32, symmetric True",
        ),
        (
            INT4 | {"symmetric": False},
            "num_bits 4, type int, strategy group, group_size 128",
        ),
        (
            INT4 | {"actorder": "group"},
            "num_bits 4, type int, strategy group, group_size 128, symmetric True, actorder group",
        ),
        ({"num_bits": 8, "type": "int", "strategy": "channel"},
         "num_bits 8, type int, strategy channel"),
        ({}, "no weights"),
    ],
)  # fmt: skip
def test_other_schemes(tmp_path: Path, scheme: dict[str, Any], stated: str) -> None:
    tensors = {f"{EXPERT}_packed": torch.zeros(8, 32, dtype=torch.int32)}
    assert refusal(tmp_path, tensors, FP8, scheme) == (
        f"weights that cannot be decoded:\n  group_1: {stated}"
    )


def test_scales_that_do_not_fit(tmp_path: Path) -> None:
    packed = torch.zeros(8, 32, dtype=torch.int32)
    fp8 = torch.zeros(130, 8, dtype=torch.float8_e4m3fn)
    tensors = {
        f"{EXPERT}_packed": packed,
        f"{EXPERT}_scale": torch.ones(8, 2),
        LINEAR: fp8,
        "model.layers.1.mlp.experts.0.up_proj.weight_packed": packed[:, :10].clone(),
    }
    assert refusal(tmp_path, tensors, INT4, FP8).splitlines() == [
        "tensors and scales do not match:",
        f"  {EXPERT}_packed: its scale is not BF16 of shape [8, 2]",
        f"  {LINEAR}: its scale is not F32 or BF16 of shape [2, 1]",
        "  model.layers.1.mlp.experts.0.up_proj.weight_packed: is I32 [8, 10], not I32 in groups "
        "of 128 inputs",
    ]
