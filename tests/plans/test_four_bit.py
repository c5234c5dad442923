"""Four-bit checkpoints: what does not fit is named before anything is written."""

from pathlib import Path

import pytest
import torch
from checkpoint.deepseek_layout import Layout

from flagdeploy.checkpoint.folder import list_files
from flagdeploy.checkpoint.verify import verify
from flagdeploy.errors import CheckpointError
from flagdeploy.plans.conversion import W4afp8Options, plan_conversion

SHARD = "model-00001-of-00001.safetensors"
GATE = "model.layers.0.mlp.experts.gate_up_proj"
EXPERT = "model.layers.0.mlp.experts.0.up_proj.weight"


def refusal(folder: Path, tensors: dict[str, torch.Tensor]) -> str:
    whole = verify(Layout({SHARD: tensors}).write(folder)).require()
    with pytest.raises(CheckpointError) as caught:
        plan_conversion(whole, dict.fromkeys(list_files(folder), 0), "bf16", W4afp8Options())
    message = str(caught.value)
    start = f"{folder}: tensors and scales do not match:\n  "
    assert message.startswith(start)
    return message.removeprefix(start)


def test_mxfp4(tmp_path: Path) -> None:
    blocks = torch.zeros(2, 8, 3, 16).byte()
    assert refusal(tmp_path, {f"{GATE}_blocks": blocks}) == (
        f"{GATE}_scales: is not U8 of shape [2, 8, 3]"
    )
    flat = {f"{GATE}_blocks": torch.zeros(8, 16).byte(), f"{GATE}_scales": torch.zeros(8).byte()}
    assert refusal(tmp_path, flat) == (
        f"{GATE}_blocks: is U8 of shape [8, 16], not U8 [.., .., .., 16]"
    )
    lone = {f"{GATE}_blocks": blocks, f"{GATE}_scales": torch.zeros(2, 8, 3).byte()}
    lone["down_proj_scales"] = torch.zeros(1).byte()
    assert refusal(tmp_path, lone) == ("down_proj_scales: are scales without down_proj_blocks")


def test_w4afp8(tmp_path: Path) -> None:
    packed = torch.zeros(8, 128, dtype=torch.int8)
    tensors = {EXPERT: packed, f"{EXPERT}_scale_inv": torch.ones(8, 1)}
    assert refusal(tmp_path, tensors) == f"{EXPERT}_scale_inv: is not F32 of shape [8, 2]"
    tensors = {EXPERT: packed[:, :100].clone(), f"{EXPERT}_scale_inv": torch.ones(8, 2)}
    assert refusal(tmp_path, tensors) == (
        f"{EXPERT}: is packed INT4 of shape [8, 100]: no groups of 128"
    )
