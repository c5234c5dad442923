"""The plan of FP8 blocks: DeepSeek's set of matrices, and nothing else."""

from pathlib import Path

import pytest
import torch
from checkpoint.deepseek_layout import Layout
from checkpoint.moe_layout import FP8_CONFIG, matrices, mixture

from flagdeploy.checkpoint.folder import list_files
from flagdeploy.checkpoint.verify import verify
from flagdeploy.errors import CheckpointError
from flagdeploy.plans.conversion_plan import ConversionPlan
from flagdeploy.plans.fp8 import plan_fp8


def planned(layout: Layout, folder: Path) -> ConversionPlan:
    whole = verify(layout.write(folder)).require()
    return plan_fp8(whole, dict.fromkeys(list_files(folder), 0))


def test_the_headers_are_those_of_the_published_layout(tmp_path: Path) -> None:
    """Converting the names and shapes of an FP8 checkpoint's BF16 twin gives them back."""
    plan = planned(mixture(fp8=False), tmp_path)
    assert plan.weight_map.keys() == mixture().tensors.keys()
    assert plan.jobs.converted == len(matrices())
    assert plan.config == {
        **mixture().config,
        "quantization_config": FP8_CONFIG,
    }


def test_a_model_without_such_matrices(tmp_path: Path) -> None:
    tensors = {"transformer.h.0.attn.weight": torch.zeros(128, 128).bfloat16()}
    with pytest.raises(CheckpointError) as caught:
        planned(Layout({"model-00001-of-00001.safetensors": tensors}), tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: has none of the matrices that DeepSeek-V3 has in FP8"
    )


def test_fp8_is_already_fp8(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        planned(mixture(), tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: is in FP8 e4m3 in scaled blocks (DeepSeek V3, R1, V3.1, V3.2), "
        "which cannot be converted to fp8"
    )
