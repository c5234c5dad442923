"""The samples that dequant reads back at its end see a tensor that was written wrongly."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from checkpoint.deepseek_layout import Layout, deepseek
from checkpoint.moe_layout import mixture
from flagdeploy.checkpoint.folder import list_files
from flagdeploy.checkpoint.safetensors_file import read_header
from flagdeploy.checkpoint.sample import compare_samples
from flagdeploy.checkpoint.sample_quantized import compare_quantized
from flagdeploy.checkpoint.verify import verify
from flagdeploy.plans.conversion import W4afp8Options, plan_conversion
from flagdeploy.plans.conversion_plan import ConversionPlan
from flagdeploy.workflows.dequant import dequant

EXPERT = "model.layers.1.mlp.experts.0.up_proj.weight"


def fp8(folder: Path) -> Path:
    return deepseek().write(folder)


def mxfp4(folder: Path) -> Path:
    blocks = torch.randint(0, 256, (2, 64, 3, 16)).byte()
    tensors = {"x_blocks": blocks, "x_scales": torch.full((2, 64, 3), 127).byte()}
    return Layout({"model-00001-of-00001.safetensors": tensors}).write(folder)


def w4afp8(folder: Path) -> Path:
    return dequant(mixture().write(folder), "w4afp8", act_scales=1.0).folder


def plan(source: Path, to: str) -> ConversionPlan:
    files = dict.fromkeys(list_files(source), 0)
    return plan_conversion(verify(source), files, to, W4afp8Options())


def spoil(folder: Path, name: str) -> str:
    """Invert every byte of a tensor."""
    for path in folder.glob("*.safetensors"):
        header = read_header(path)
        if name in header.tensors:
            tensor, data = header.tensors[name], bytearray(path.read_bytes())
            part = slice(header.data_start + tensor.begin, header.data_start + tensor.end)
            data[part] = bytes(255 - byte for byte in data[part])
            path.write_bytes(data)
            return path.name
    raise KeyError(name)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (fp8, "model.layers.0.self_attn.o_proj.weight"),
        (fp8, "model.embed_tokens.weight"),
        (mxfp4, "x"),
    ],
)
def test_a_tensor_written_wrongly_is_named(
    tmp_path: Path, make: Callable[[Path], Path], name: str
) -> None:
    source = make(tmp_path / "source")
    made = plan(source, "bf16")
    out = dequant(source, "bf16").folder
    assert compare_samples(made.weight_map, made.jobs.of, source, out) is None
    shard = spoil(out, name)
    assert compare_samples(made.weight_map, made.jobs.of, source, out) == f"{shard}: {name}"


def test_four_bit_experts_are_sampled(tmp_path: Path) -> None:
    source = w4afp8(tmp_path / "R1")
    made = plan(source, "bf16")
    out = dequant(source, "bf16").folder
    experts = {n: s for n, s in made.weight_map.items() if ".experts." in n and ".4." not in n}
    assert compare_samples(experts, made.jobs.of, source, out) is None
    shards = {spoil(out, name) for name in experts}
    wrong = compare_samples(experts, made.jobs.of, source, out)
    assert wrong is not None
    assert wrong.partition(": ")[0] in shards


@pytest.mark.parametrize("to", ["fp8", "w4afp8"])
def test_what_is_quantized_wrongly_is_named(tmp_path: Path, to: str) -> None:
    source = mixture(fp8=False).write(tmp_path / "V3")
    scales = 1.0 if to == "w4afp8" else None
    out = dequant(source, to, act_scales=scales, parts=1 if scales else None).folder
    made = plan_conversion(
        verify(source), dict.fromkeys(list_files(source), 0), to, W4afp8Options(parts=1)
    )
    wrong, error = compare_quantized(made.jobs, source, out)
    assert wrong is None
    assert "routed experts up_proj" in error
    names = {name for name in made.weight_map if ".up_proj.weight_scale" in name}
    for name in names:
        spoil(out, name)
    wrong, error = compare_quantized(made.jobs, source, out)
    assert wrong is not None
    assert wrong.endswith(".up_proj.weight")
    assert error == {}
