from dataclasses import replace
from pathlib import Path

import pytest

from config.models import DEEPSEEK_R1, GPT_OSS_120B
from flagdeploy import vendors
from flagdeploy.config import memory
from flagdeploy.config.schema import Deployment, KvCache, Model, Parallel

WORKSPACE = Path(__file__).parents[2]
NVIDIA = vendors.load("nvidia", WORKSPACE)

# The hardware requirements of TensorRT-LLM's DeepSeek guide, cell by cell: FP8, FP4, W4A8.
# "N/A" and "WIP" are the guide's own words; it has one row for B200 and GB200.
HARDWARE_TABLE = {
    "H100": (16, "N/A", 8),
    "H20-141": (8, "N/A", 4),
    "H20-96": (8, "N/A", 4),
    "H200": (8, "N/A", 4),
    "B200": ("WIP", 4, "WIP"),
    "GB200": ("WIP", 4, "WIP"),
}
# What the guide left open: engines run FP8 on Blackwell by now, W4A8 they still do not.
LEFT_OPEN = {"fp8": 4, "w4a8": None}


@pytest.mark.parametrize("precision", ["fp8", "nvfp4", "w4a8"])
@pytest.mark.parametrize("chip", HARDWARE_TABLE)
def test_hardware_table_of_the_deepseek_guide(chip, precision):
    cell = HARDWARE_TABLE[chip][("fp8", "nvfp4", "w4a8").index(precision)]
    expected = {"N/A": None, "WIP": LEFT_OPEN.get(precision)}.get(cell, cell)
    assert memory.minimum_devices(DEEPSEEK_R1, precision, NVIDIA.chips[chip]) == expected


def test_ampere_runs_none_of_the_quantized_checkpoints():
    found = [
        memory.minimum_devices(DEEPSEEK_R1, precision, NVIDIA.chips["A100-80"])
        for precision in ("fp8", "nvfp4", "w4a8")
    ]
    assert found == [None, None, None]


@pytest.mark.parametrize(("chip", "devices"), [("H100", 32), ("H200", 16), ("B200", 8)])
def test_bf16_needs_twice_as_many(chip, devices):
    assert memory.minimum_devices(DEEPSEEK_R1, "bf16", NVIDIA.chips[chip]) == devices


def test_gpt_oss_fits_one_80_gb_gpu():
    assert memory.minimum_devices(GPT_OSS_120B, "mxfp4", NVIDIA.chips["H100"]) == 1


def test_a_chip_whose_memory_is_unknown_gives_no_number():
    mlu590 = vendors.load("cambricon", WORKSPACE).chips["MLU590"]
    assert memory.minimum_devices(DEEPSEEK_R1, "bf16", mlu590) is None


def test_parameters_of_deepseek_r1():
    count = memory.parameters(DEEPSEEK_R1)
    assert count.total == 671_026_419_200
    assert count.experts == 58 * 256 * 44_040_192


def test_parameters_of_gpt_oss_120b():
    count = memory.parameters(GPT_OSS_120B)
    assert count.total == 116_829_156_672
    assert count.experts == 114_661_785_600


@pytest.mark.parametrize(
    ("precision", "gigabytes"),
    [("fp8", 673.15), ("bf16", 1342.05), ("w4a8", 356.25), ("nvfp4", 396.68)],
)
def test_weights_of_deepseek_r1(precision, gigabytes):
    assert memory.weight_bytes(DEEPSEEK_R1, precision) / 1e9 == pytest.approx(gigabytes, abs=0.005)


def test_weights_of_gpt_oss_120b():
    assert memory.weight_bytes(GPT_OSS_120B, "mxfp4") / 1e9 == pytest.approx(65.25, abs=0.005)


def test_kv_cache_of_one_token():
    assert memory.kv_bytes_per_token(DEEPSEEK_R1) == 70_272
    assert memory.kv_bytes_per_token(DEEPSEEK_R1, "fp8") == 35_136
    assert memory.kv_bytes_per_token(GPT_OSS_120B) == 36_864


@pytest.mark.parametrize(
    ("chip", "tensor", "precision", "dtype", "thousands"),
    [
        ("H200", 8, "fp8", "bf16", 642),
        ("H200", 8, "fp8", "fp8", 1283),
        ("H20-96", 8, "fp8", "bf16", 26),
        ("H100", 16, "fp8", "bf16", 404),
        ("H200", 4, "w4a8", "bf16", 572),
        ("B200", 4, "nvfp4", "bf16", 959),
    ],
)
def test_tokens_that_fit_beside_the_weights(chip, tensor, precision, dtype, thousands):
    deployment = Deployment(
        model=Model(precision=precision, architecture=DEEPSEEK_R1),
        parallel=Parallel(tensor=tensor),
        kv_cache=KvCache(dtype=dtype),
    )
    tokens = memory.kv_tokens(deployment, NVIDIA.chips[chip])
    assert round(tokens / 1000) == thousands


def test_a_cache_of_unknown_dimensions_gives_no_number():
    architecture = replace(DEEPSEEK_R1, kv_lora_rank=0, qk_rope_head_dim=0, head_dim=0)
    model = Model(precision="fp8", architecture=architecture)
    deployment = Deployment(model=model, parallel=Parallel(tensor=8))
    assert memory.kv_tokens(deployment, NVIDIA.chips["H200"]) is None


def test_attention_data_parallelism_holds_attention_on_every_device():
    model = Model(precision="fp8", architecture=DEEPSEEK_R1)
    split = Deployment(model=model, parallel=Parallel(tensor=8, expert=8))
    replicated = replace(split, parallel=Parallel(tensor=8, expert=8, attention_data=True))
    assert memory.device_weights_gib(split) == pytest.approx(78.4, abs=0.05)
    assert memory.device_weights_gib(replicated) == pytest.approx(93.9, abs=0.05)
    as_data = replace(split, parallel=Parallel(data=8, expert=8, attention_data=True))
    assert memory.device_weights_gib(as_data) == memory.device_weights_gib(replicated)
