"""Formats are told from config and headers, and each has a name."""

import pytest

from flagdeploy.checkpoint.formats import Format, recognise
from flagdeploy.checkpoint.safetensors_file import Tensor

W, SCALE = "model.layers.3.mlp.experts.0.up_proj.weight", (1, 1)
BF16 = {"model.norm.weight": ("BF16", (8,))}
FP8 = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}


CASES = {
    "DeepSeek V3, R1, V3.1": (
        FP8,
        {W: ("F8_E4M3", (8, 8)), f"{W}_scale_inv": ("F32", SCALE), **BF16},
        Format("fp8-block", (128, 128)),
    ),
    "ue8m0 scales": (
        FP8,
        {W: ("F8_E4M3", (8, 8)), f"{W}_scale_inv": ("F8_E8M0", SCALE)},
        Format("fp8-block", (128, 128)),
    ),
    "other blocks": (
        {"quantization_config": {"weight_block_size": [64, 32]}},
        {W: ("F8_E4M3", (8, 8)), f"{W}_scale_inv": ("F32", SCALE)},
        Format("fp8-block", (64, 32)),
    ),
    "DeepSeek V4": (
        FP8,
        {W: ("F8_E4M3", (8, 8)), "x.scale": ("F8_E8M0", SCALE)},
        Format("fp8-e8m0"),
    ),
    "bf16": ({}, {W: ("BF16", (8, 8)), "bias": ("F32", (8,)), **BF16}, Format("bf16")),
    "fp16": ({}, {W: ("F16", (8, 8))}, Format("fp16")),
    "fp32": ({}, {W: ("F32", (8, 8))}, Format("fp32")),
    "W4AFP8": (
        {},
        {
            W: ("I8", (8, 4)),
            f"{W}_scale_inv": ("F32", (8, 1)),
            "q.weight": ("F8_E4M3", (8, 8)),
            "q.weight_scale_inv": ("F32", SCALE),
        },
        Format("w4afp8"),
    ),
    "NVFP4 of Model-Optimizer": (
        {"quantization_config": {"quant_method": "modelopt"}},
        {W: ("U8", (8, 4)), f"{W}_scale": ("F8_E4M3", (8, 1)), f"{W}_scale_2": ("F32", ())},
        Format("nvfp4"),
    ),
    "NVFP4 of compressed-tensors": (
        {"quantization_config": {"quant_method": "compressed-tensors"}},
        {"x.weight_packed": ("U8", (8, 4)), "x.weight_global_scale": ("F32", (1,))},
        Format("nvfp4"),
    ),
    "MXFP4 of gpt-oss": (
        {"quantization_config": {"quant_method": "mxfp4"}},
        {"mlp.experts.down_proj_blocks": ("U8", (1, 8, 1, 16)), **BF16},
        Format("mxfp4"),
    ),
    "FP8 per tensor": (
        {"quantization_config": {"quant_method": "fp8"}},
        {W: ("F8_E4M3", (8, 8)), f"{W}_scale": ("F32", ())},
        Format("fp8-tensor"),
    ),
    "FP8 e5m2": ({}, {W: ("F8_E5M2", (8, 8))}, Format("fp8-e5m2")),
    "FP8 and nothing else": ({}, {W: ("F8_E4M3", (8, 8))}, Format("fp8-unscaled")),
    "compressed-tensors": (
        {"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized"}},
        {"x.weight_packed": ("I32", (8, 1))},
        Format("compressed-tensors pack-quantized"),
    ),
    "GPTQ": (
        {"quantization_config": {"quant_method": "gptq"}},
        {"x.qweight": ("I32", (8, 1))},
        Format("gptq"),
    ),
    "something else": ({"quantization_config": "?"}, {W: ("U16", (8, 8))}, Format("U16")),
}


@pytest.mark.parametrize("case", CASES)
def test_recognises(case: str) -> None:
    config, layout, expected = CASES[case]
    tensors = {name: Tensor(name, dtype, shape, 0, 0) for name, (dtype, shape) in layout.items()}
    assert recognise(config, tensors) == expected
