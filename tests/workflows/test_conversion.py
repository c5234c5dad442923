"""Quantizations and four-bit decodings, from folder to folder, against torch, bit for bit."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from checkpoint.deepseek_layout import Layout, dequantized
from checkpoint.moe_layout import LAYERS, act_scales, experts, matrices, mixture
from checkpoint.published_w4afp8 import pack, pack_for_compressed_tensors, quantize
from safetensors.torch import load_file, save_file

from flagdeploy.checkpoint.ownership import RECORD
from flagdeploy.errors import CheckpointError, UsageError
from flagdeploy.workflows.dequant import DequantResult, dequant

SCALE = "_scale_inv"


def loaded(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors by way of the index, which must fit the shards exactly."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shards = {path.name: load_file(path) for path in sorted(folder.glob("*.safetensors"))}
    found = {name: shard for shard, tensors in shards.items() for name in tensors}
    assert found == index["weight_map"]
    return {name: tensor for tensors in shards.values() for name, tensor in tensors.items()}


def same(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert got[name].dtype == tensor.dtype, name
        assert got[name].shape == tensor.shape, name
        assert torch.equal(got[name].view(torch.uint8), tensor.view(torch.uint8)), name


def bf16(layout: Layout) -> dict[str, torch.Tensor]:
    return dequantized(layout)


def trtllm(layout: Layout) -> dict[str, torch.Tensor]:
    """The weights that the published script writes, and those it leaves as they are."""
    expected, plain = dict(layout.tensors), bf16(layout)
    for name in experts():
        numbers, scale = quantize(plain[name])
        expected[name], expected[name + SCALE] = pack(numbers), scale
    return expected


@pytest.fixture(params=[True, False], ids=["fp8", "bf16"])
def layout(request: pytest.FixtureRequest) -> Layout:
    return mixture(fp8=request.param)


def test_w4afp8_for_trtllm(tmp_path: Path, layout: Layout) -> None:
    scales = act_scales()
    save_file(scales, tmp_path / "calibrated.safetensors")
    source = layout.write(tmp_path / "R1")
    result = dequant(source, "w4afp8", act_scales=tmp_path / "calibrated.safetensors", parts=2)
    same(loaded(result.folder), trtllm(layout) | scales)
    assert sorted(path.name for path in result.folder.iterdir()) == [
        "act_scales.safetensors",
        "config.json",
        "flagdeploy.json",
        "generation_config.json",
        "hf_quant_config.json",
        "model-00000-of-00002.safetensors",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "quant_cfg.json",
        "tokenizer.json",
    ]
    config = json.loads((result.folder / "config.json").read_text())
    assert "quantization_config" not in config
    kinds = ("down_proj", "gate_proj", "up_proj")
    assert list(result.error) == [f"routed experts {kind}" for kind in kinds]
    # Rounding uniformly to fifteen steps between the extremes of 128 normal values.
    assert all(0.05 < error < 0.15 for error in result.error.values())
    assert json.loads((result.folder / RECORD).read_text())["error"] == result.error


def test_parts_hold_equal_numbers_of_layers(tmp_path: Path) -> None:
    source = mixture().write(tmp_path / "R1")
    folder = dequant(source, "w4afp8", act_scales=1.0, parts=3).folder
    weight_map = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    homes = {name: weight_map[name] for name in weight_map if not name.endswith("input_scale")}
    for name, shard in homes.items():
        layer = int(name.split(".")[2]) if name.startswith("model.layers") else 0
        # Four layers in three parts are two layers each, in two parts; MTP is in the last.
        assert shard == f"model-{min(layer // 2, 1):05d}-of-00002.safetensors", name


def test_without_mtp_nothing_of_it_is_left(tmp_path: Path) -> None:
    source = mixture().write(tmp_path / "R1")
    folder = dequant(source, "w4afp8", act_scales=0.5, drop_mtp=True).folder
    tensors = loaded(folder)
    assert not any(name.startswith(f"model.layers.{LAYERS}.") for name in tensors)
    assert json.loads((folder / "config.json").read_text())["num_nextn_predict_layers"] == 0
    stated = json.loads((folder / "quant_cfg.json").read_text())["quantized_layers"]
    assert not any(name.startswith(f"model.layers.{LAYERS}.") for name in stated)
    inputs = {name: float(t) for name, t in tensors.items() if name.endswith("input_scale")}
    assert len(inputs) == len(experts())
    assert set(inputs.values()) == {0.5}


def test_w4afp8_for_vllm_has_the_same_integers(tmp_path: Path, layout: Layout) -> None:
    result = dequant(layout.write(tmp_path / "R1"), "w4afp8", layout="vllm")
    plain = bf16(layout)
    expected = {
        name.replace("weight_scale_inv", "weight_scale"): tensor
        for name, tensor in layout.tensors.items()
        if name.removesuffix(SCALE) not in experts()
    }
    for name in experts():
        numbers, scale = quantize(plain[name])
        expected[f"{name}_packed"] = pack_for_compressed_tensors(numbers)
        expected[f"{name}_scale"] = scale.bfloat16()
        expected[f"{name}_shape"] = torch.tensor(plain[name].shape)
    same(loaded(result.folder), expected)
    config = json.loads((result.folder / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"


def test_w4afp8_and_back_is_half_a_step_away(tmp_path: Path) -> None:
    layout = mixture()
    folder = dequant(layout.write(tmp_path / "R1"), "w4afp8", act_scales=1.0).folder
    back = loaded(dequant(folder, "bf16", tmp_path / "back").folder)
    plain = bf16(layout)
    assert back.keys() == plain.keys()
    for name in plain.keys() - set(experts()):
        assert torch.equal(back[name], plain[name])
    for name in experts():
        numbers, scale = quantize(plain[name])
        exact = numbers.float() * scale.repeat_interleave(128, dim=1)
        assert torch.equal(back[name], exact.bfloat16())
        step = scale.repeat_interleave(128, dim=1)
        assert ((exact - plain[name].float()).abs() <= step * 0.501).all()


@pytest.mark.parametrize("to", ["bf16", "fp16", "fp32"])
def test_w4afp8_for_vllm_and_back(tmp_path: Path, layout: Layout, to: str) -> None:
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[to]
    source = layout.write(tmp_path / "R1")
    folder = dequant(source, "w4afp8", layout="vllm").folder
    expected = dict(layout.tensors)
    if layout.config.get("quantization_config"):
        expected = loaded(dequant(source, to, tmp_path / "plain").folder)
    for name, weight in bf16(layout).items():
        if name in experts():
            numbers, scale = quantize(weight)
            exact = numbers.float() * scale.bfloat16().float().repeat_interleave(128, dim=1)
            expected[name] = exact.to(dtype)
    result = dequant(folder, to, tmp_path / "back")
    same(loaded(result.folder), expected)
    config = json.loads((result.folder / "config.json").read_text())
    assert "quantization_config" not in config


def test_bf16_to_fp8(tmp_path: Path) -> None:
    layout = mixture(fp8=False)
    layout.tensors["model.layers.0.mlp.gate_proj.weight"][:128, :128] = 0
    result = dequant(layout.write(tmp_path / "V3"), "fp8")
    expected = dict(layout.tensors)
    for module, shape in matrices().items():
        weight = expected[f"{module}.weight"].float()
        scales = torch.ones(-(-shape[0] // 128), -(-shape[1] // 128))
        codes = torch.zeros(shape)
        for i, rows in enumerate(weight.split(128)):
            for j, block in enumerate(rows.split(128, dim=1)):
                peak = block.abs().max()
                scales[i, j] = peak / 448 if peak else 1
                codes[128 * i : 128 * (i + 1), 128 * j : 128 * (j + 1)] = block / scales[i, j]
        expected[f"{module}.weight"] = codes.clamp(-448, 448).to(torch.float8_e4m3fn)
        expected[f"{module}.weight_scale_inv"] = scales
    same(loaded(result.folder), expected)
    config = json.loads((result.folder / "config.json").read_text())
    assert config["quantization_config"]["weight_block_size"] == [128, 128]
    assert all(0.01 < error < 0.04 for error in result.error.values())
    again = dequant(result.folder, "bf16", tmp_path / "back")
    same(loaded(again.folder), dequantized(Layout({"x": expected})))


@pytest.mark.parametrize("to", ["bf16", "fp16", "fp32"])
def test_mxfp4_is_what_transformers_loads(tmp_path: Path, to: str) -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    torch.manual_seed(0)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[to]
    prefix = "model.layers.0.mlp.experts."
    tensors = {
        f"{prefix}gate_up_proj_blocks": torch.randint(0, 256, (3, 192, 5, 16), dtype=torch.uint8),
        f"{prefix}gate_up_proj_scales": torch.randint(110, 130, (3, 192, 5), dtype=torch.uint8),
        f"{prefix}gate_up_proj_bias": torch.randn(3, 192).bfloat16(),
    }
    config: dict[str, object] = {"quantization_config": {"quant_method": "mxfp4"}}
    source = Layout({"model-00001-of-00001.safetensors": tensors}, config).write(tmp_path / "oss")
    got = loaded(dequant(source, to).folder)
    names = [f"{prefix}gate_up_proj_{kind}" for kind in ("blocks", "scales", "bias")]
    expected = convert_moe_packed_tensors(*(tensors[n].clone() for n in names[:2]), dtype=dtype)
    same(got, {f"{prefix}gate_up_proj": expected.contiguous(), names[2]: tensors[names[2]]})


def test_nan_is_not_quantized(tmp_path: Path) -> None:
    layout = mixture(fp8=False)
    name = experts()[-1]
    shard = next(shard for shard, tensors in layout.shards.items() if name in tensors)
    layout.shards[shard][name][-1, -1] = torch.nan
    source = layout.write(tmp_path / "V3")
    for to, scales in (("fp8", None), ("w4afp8", 1.0)):
        with pytest.raises(CheckpointError) as caught:
            dequant(source, to, act_scales=scales)
        assert str(caught.value) == (
            f"{shard}: {name}: holds NaN or infinities, which cannot be quantized"
        )
        assert not (tmp_path / f"V3-{to}" / RECORD).exists()


@pytest.mark.parametrize(
    ("to", "options", "message"),
    [
        ("w4afp8", {}, "--to w4afp8: needs the activation scales of the experts"),
        ("w4afp8", {"layout": "tpu"}, "--layout tpu: unknown"),
        ("w4afp8", {"act_scales": -1.0}, "--act-scales -1.0: is not a scale"),
        ("w4afp8", {"act_scales": 1.0, "parts": 0}, "--parts 0: there must be one at least"),
        (
            "w4afp8",
            {"layout": "vllm", "act_scales": 1.0},
            "--act-scales: has no meaning for the vllm layout",
        ),
        ("bf16", {"parts": 3}, "--parts: has no meaning for --to bf16"),
    ],
)
def test_options_that_do_not_fit(
    tmp_path: Path, to: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        dequant(tmp_path, to, **options)  # type: ignore[arg-type]
    assert str(caught.value) == message


SLOWLY = """
import sys, time
import flagdeploy.checkpoint.shard as shard
from flagdeploy.workflows.dequant import dequant
writing = shard.write_at
def slowly(*arguments):
    time.sleep(0.001)
    writing(*arguments)
shard.write_at = slowly
print("started", flush=True)
dequant(sys.argv[1], "w4afp8", act_scales=1.0, workers=2)
"""


def test_killed_at_any_moment_it_goes_on(tmp_path: Path) -> None:
    source = mixture().write(tmp_path / "R1")
    whole = convert(source, tmp_path / "undisturbed")
    out = tmp_path / "R1-w4afp8"
    moments = random.Random(0)
    command = [sys.executable, "-c", SLOWLY, str(source)]
    kept: dict[Path, int] = {}
    for _ in range(5):
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(moments.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        shards = {path: path.stat().st_ino for path in out.glob("*.safetensors")}
        assert kept.items() <= shards.items(), "a finished shard was written again"
        kept = shards
    result = convert(source, out)
    assert result.outcome in ("converted", "already done")
    assert contents(out) == contents(whole.folder)
    assert result.error == whole.error
    again = convert(source, out)
    assert (again.outcome, again.error) == ("already done", whole.error)


def convert(source: Path, out: Path) -> DequantResult:
    return dequant(source, "w4afp8", out, act_scales=1.0)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_dry_run_of_w4afp8_measures_the_quantization(tmp_path: Path) -> None:
    """The shard of activation scales comes first and holds nothing to measure."""
    source = mixture().write(tmp_path / "R1")
    result = dequant(source, "w4afp8", act_scales=1.0, dry_run=True)
    assert result.plan.jobs.names[0] == "act_scales.safetensors"
    assert "converting at " in str(result)
    sizes = [tensor.numel() for name, tensor in mixture().tensors.items() if name in experts()]
    assert result.plan.jobs.converted_bytes == sum(sizes)
