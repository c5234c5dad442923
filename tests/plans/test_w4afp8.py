"""The plan of W4AFP8: the published files for the published model, and every refusal by name."""

import re
from pathlib import Path

import pytest
import torch
from checkpoint.deepseek_layout import Layout
from checkpoint.moe_layout import LAYERS, act_scales, experts, matrices, mixture

from flagdeploy.checkpoint.folder import list_files
from flagdeploy.checkpoint.safetensors_file import Tensor
from flagdeploy.checkpoint.verify import verify
from flagdeploy.errors import CheckpointError
from flagdeploy.plans.conversion_plan import ConversionPlan
from flagdeploy.plans.w4afp8 import plan_w4afp8
from flagdeploy.plans.w4afp8_config import HF_QUANT_CONFIG, quant_cfg


def planned(model: Layout, folder: Path, **options: object) -> ConversionPlan:
    whole = verify(model.write(folder)).require()
    return plan_w4afp8(whole, dict.fromkeys(list_files(folder), 0), **options)  # type: ignore[arg-type]


def refusal(model: Layout, folder: Path, **options: object) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        planned(model, folder, **options)
    return caught.value


def test_quant_cfg_of_the_published_model() -> None:
    """61 layers of which 3 are dense: what the published script has written in it as constants."""
    fp8, int4 = {"quant_algo": "FP8_BLOCK_SCALES"}, {"quant_algo": "W4A8_AWQ"}
    expected = {}
    for layer in range(61):
        prefix = f"model.layers.{layer}"
        for name in ("fused_a", "q_b_proj", "kv_b_proj", "o_proj"):
            expected[f"{prefix}.self_attn.{name}"] = fp8
        for name in ("gate_up_proj", "down_proj"):
            expected[f"{prefix}.mlp.shared_experts.{name}"] = fp8
            if layer < 3:
                expected[f"{prefix}.mlp.{name}"] = fp8
        if layer >= 3:
            expected[f"{prefix}.mlp.experts"] = int4
    names = [f"model.layers.{layer}.self_attn.o_proj.weight" for layer in range(61)]
    tensors = {name: Tensor(name, "F8_E4M3", (1, 1), 0, 1) for name in names}
    written = quant_cfg({"first_k_dense_replace": 3}, tensors, 61)
    assert written == {
        "quant_algo": "MIXED_PRECISION",
        "kv_cache_quant_algo": None,
        "quantized_layers": expected,
    }
    assert HF_QUANT_CONFIG == {
        "quantization": {"quant_algo": "MIXED_PRECISION", "kv_cache_quant_algo": None}
    }


def test_mtp_is_stated_in_the_precision_it_keeps(tmp_path: Path) -> None:
    stated = planned(mixture(), tmp_path / "fp8").written["quant_cfg.json"]["quantized_layers"]
    assert stated[f"model.layers.{LAYERS - 1}.mlp.experts"] == {"quant_algo": "W4A8_AWQ"}
    assert stated[f"model.layers.{LAYERS}.mlp.experts"] == {"quant_algo": "FP8_BLOCK_SCALES"}
    plain = planned(mixture(fp8=False), tmp_path / "bf16").written["quant_cfg.json"]
    assert plain["quantized_layers"] == {
        f"model.layers.{layer}.mlp.experts": {"quant_algo": "W4A8_AWQ"}
        for layer in range(1, LAYERS)
    }


def group_of(config: dict[str, dict[str, dict[str, list[str]]]], module: str) -> list[str]:
    """The groups whose patterns match, as compressed-tensors matches them; "ignore" is one."""
    patterns = {name: group["targets"] for name, group in config["config_groups"].items()}
    patterns["ignore"] = config["ignore"]  # type: ignore[assignment]
    return [
        name
        for name, targets in patterns.items()
        if any(re.match(target.removeprefix("re:"), module) for target in targets)
    ]


@pytest.mark.parametrize("fp8", [True, False])
@pytest.mark.parametrize("drop_mtp", [True, False])
def test_every_module_is_in_one_group_for_vllm(tmp_path: Path, fp8: bool, drop_mtp: bool) -> None:
    layout = mixture(fp8)
    plan = planned(layout, tmp_path, layout="vllm", drop_mtp=drop_mtp)
    config = plan.config["quantization_config"]
    assert config["format"] == ("mixed-precision" if fp8 else "pack-quantized")
    for module in matrices():
        if drop_mtp and module.startswith(f"model.layers.{LAYERS}."):
            continue
        int4 = f"{module}.weight" in experts()
        expected = "group_0" if int4 else "group_1" if fp8 else "ignore"
        assert group_of(config, module) == [expected], module
    for module in ("lm_head", "model.layers.2.mlp.gate"):
        assert group_of(config, module) == ["ignore"]
    if fp8 and not drop_mtp:
        # vLLM puts the MTP layer's block into a module of its own.
        moved = f"model.layers.{LAYERS}.mtp_block.mlp.experts.0.up_proj"
        assert group_of(config, moved) == ["group_1"]


def test_schemes_for_vllm(tmp_path: Path) -> None:
    config = planned(mixture(), tmp_path, layout="vllm").config["quantization_config"]
    int4, fp8 = config["config_groups"].values()
    assert int4["format"] == "pack-quantized"
    assert int4["weights"] == {
        "num_bits": 4,
        "type": "int",
        "strategy": "group",
        "symmetric": True,
        "dynamic": False,
        "group_size": 128,
    }
    assert int4["input_activations"] == {
        "num_bits": 8,
        "type": "float",
        "strategy": "token",
        "symmetric": True,
        "dynamic": True,
    }
    assert fp8["format"] == "float-quantized"
    assert fp8["weights"]["block_structure"] == [128, 128]


def test_prints_itself(tmp_path: Path) -> None:
    lines = str(planned(mixture(), tmp_path, parts=2)).splitlines()
    assert lines[:2] == [
        f"dequant {tmp_path}: FP8 e4m3 in scaled blocks (DeepSeek V3, R1, V3.1, V3.2) -> w4afp8",
        "  3 shard(s): 27 tensors quantized, 114 copied",
    ]


def test_identity_tells_layouts_and_scales_apart(tmp_path: Path) -> None:
    options: list[dict[str, object]] = [{}, {"layout": "vllm"}, {"act_scales": 2.0}, {"parts": 2}]
    plans = [planned(mixture(), tmp_path, **given) for given in options]
    assert len({str(plan.identity) for plan in plans}) == 4


def test_activation_scales_must_fit(tmp_path: Path) -> None:
    given = {name: float(value) for name, value in act_scales().items()}
    assert planned(mixture(), tmp_path, act_scales=given)
    one = "model.layers.2.mlp.experts.1."
    error = refusal(mixture(), tmp_path, act_scales=given | {f"{one}w3.input_scale": 9.0})
    assert str(error) == (
        f"{tmp_path}: activation scales that do not fit:\n"
        f"  {one}w1 and w3: differ, though they share their input"
    )
    del given[f"{one}w2.input_scale"]
    error = refusal(mixture(), tmp_path, act_scales=given)
    assert str(error).endswith(f"\n  {one}w2.input_scale: is missing")


def test_a_dense_model_has_nothing_to_quantize(tmp_path: Path) -> None:
    layout = mixture(fp8=False)
    for tensors in layout.shards.values():
        for name in [name for name in tensors if ".mlp.experts." in name]:
            del tensors[name]
    layout.shards = {shard: tensors for shard, tensors in layout.shards.items() if tensors}
    error = refusal(layout, tmp_path)
    assert str(error).startswith(f"{tmp_path}: has no routed experts (model.layers.L.mlp.experts")


def test_inputs_that_make_no_groups(tmp_path: Path) -> None:
    layout = mixture(fp8=False)
    name = experts()[0]
    shard = next(tensors for tensors in layout.shards.values() if name in tensors)
    shard[name] = torch.zeros(128, 200).bfloat16()
    error = refusal(layout, tmp_path)
    assert str(error).endswith(f"\n  {name}: shape [128, 200]: no groups of 128 inputs")
    shard[name] = torch.zeros(128, 256)
    assert str(refusal(layout, tmp_path)).endswith(f"\n  {name}: is F32, not FP8 or BF16")


def test_other_formats_are_refused_by_name(tmp_path: Path) -> None:
    blocks = {"mlp.experts.down_proj_blocks": torch.zeros(1, 8, 1, 16).byte()}
    error = refusal(Layout({"model-00001-of-00001.safetensors": blocks}), tmp_path)
    assert str(error) == (
        f"{tmp_path}: is in MXFP4 (two e2m1 per byte, e8m0 scale per 32), "
        "which cannot be converted to w4afp8"
    )


def test_ue8m0_bytes_have_no_place_in_the_vllm_layout(tmp_path: Path) -> None:
    layout = mixture()
    for tensors in layout.shards.values():
        for name in [name for name in tensors if name.endswith("_scale_inv")]:
            tensors[name] = torch.full(tensors[name].shape, 120, dtype=torch.uint8)
    error = refusal(layout, tmp_path, layout="vllm")
    assert "scales of FP8 blocks that are not F32 or BF16:\n" in str(error)
    assert error.hint == "convert to bf16 first, then to w4afp8"
    assert planned(layout, tmp_path)
