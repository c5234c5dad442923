"""The plan of a dequantization: every mismatch found before a byte is written."""

from pathlib import Path

import pytest
import torch
from checkpoint.deepseek_layout import Layout, deepseek

from flagdeploy.checkpoint.folder import list_files
from flagdeploy.checkpoint.formats import recognise
from flagdeploy.checkpoint.jobs import Dequantize
from flagdeploy.checkpoint.verify import Verification, verify
from flagdeploy.errors import CheckpointError
from flagdeploy.plans.conversion_plan import ConversionPlan
from flagdeploy.plans.dequant import plan_dequant
from flagdeploy.plans.recipes import all_tensors

FIRST, SECOND, THIRD = (f"model-{i:05d}-of-000003.safetensors" for i in (1, 2, 3))
CROSSING = "model.layers.0.self_attn.q_a_proj.weight"
RAGGED = "model.layers.1.self_attn.kv_a_proj_with_mqa.weight"


def planned(
    layout: Layout, folder: Path, to: str = "bf16", drop_mtp: bool = False
) -> ConversionPlan:
    whole = verify(layout.write(folder)).require()
    return plan(whole, dict.fromkeys(list_files(folder), 0), to, drop_mtp)


def plan(
    whole: Verification, files: dict[str, int], to: str, drop_mtp: bool = False
) -> ConversionPlan:
    found = recognise(whole.config, all_tensors(whole))
    return plan_dequant(whole, files, found, to, drop_mtp=drop_mtp)


def refusal(layout: Layout, folder: Path, **options: bool) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        planned(layout, folder, **options)
    return caught.value


def test_shards_keep_names_and_scales_are_gone(tmp_path: Path) -> None:
    layout = deepseek()
    plan = planned(layout, tmp_path)
    assert [job.name for job in plan.jobs] == [FIRST, SECOND, THIRD]
    expected = {
        name: shard
        for shard, tensors in layout.shards.items()
        for name in tensors
        if not name.endswith("_scale_inv")
    }
    assert plan.weight_map == expected
    sizes = {name: t.numel() * max(2, t.element_size()) for name, t in layout.tensors.items()}
    assert plan.data_bytes == sum(sizes[name] for name in expected)
    assert plan.output_bytes == plan.data_bytes + sum(len(job.head) for job in plan.jobs)


def test_a_scale_in_another_shard_is_read_there(tmp_path: Path) -> None:
    job = planned(deepseek(), tmp_path).jobs[0]
    item = next(item for item in job.work if item.name == CROSSING)
    assert isinstance(item, Dequantize)
    assert (item.source.file, item.scale.file) == (FIRST, SECOND)
    assert job.sources == {FIRST, SECOND}


def test_config_says_what_the_output_is(tmp_path: Path) -> None:
    config = planned(deepseek(), tmp_path, "fp16").config
    assert "quantization_config" not in config
    assert config["torch_dtype"] == "float16"
    assert config["num_nextn_predict_layers"] == 1
    layout = deepseek()
    layout.config["dtype"] = layout.config.pop("torch_dtype")
    assert planned(layout, tmp_path / "5").config["dtype"] == "bfloat16"
    assert "torch_dtype" not in planned(layout, tmp_path / "5").config


def test_files_about_quantization_and_other_weights_are_left_out(tmp_path: Path) -> None:
    for name in ("hf_quant_config.json", "pytorch_model.bin", "flagdeploy.json", "README.md"):
        (tmp_path / name).touch()
    plan = planned(deepseek(), tmp_path)
    assert plan.side_files == ("README.md", "generation_config.json", "tokenizer.json")
    assert plan.left_out == ("hf_quant_config.json", "pytorch_model.bin")


def test_mtp_is_dropped_on_demand(tmp_path: Path) -> None:
    kept, dropped = (planned(deepseek(), tmp_path, drop_mtp=drop) for drop in (False, True))
    assert any(name.startswith("model.layers.2.") for name in kept.weight_map)
    assert not any(name.startswith("model.layers.2.") for name in dropped.weight_map)
    assert [job.name for job in dropped.jobs] == [FIRST, SECOND]
    assert dropped.config["num_nextn_predict_layers"] == 0


def test_dropping_mtp_needs_the_number_of_layers(tmp_path: Path) -> None:
    layout = deepseek()
    del layout.config["num_hidden_layers"]
    assert str(refusal(layout, tmp_path, drop_mtp=True)) == (
        f"{tmp_path}/config.json: num_hidden_layers is not a number: "
        "cannot tell which layers are MTP"
    )


def test_identity_tells_sources_and_targets_apart(tmp_path: Path) -> None:
    whole = verify(deepseek().write(tmp_path)).require()
    files = dict.fromkeys(list_files(tmp_path), 0)
    same, again = (plan(whole, files, "bf16") for _ in range(2))
    assert same.identity == again.identity
    others = [
        plan(whole, files, "fp16"),
        plan(whole, files, "bf16", drop_mtp=True),
        plan(whole, files | {SECOND: 1}, "bf16"),
    ]
    assert len({str(plan.identity) for plan in [same, *others]}) == 4


def test_missing_scale(tmp_path: Path) -> None:
    layout = deepseek()
    del layout.shards[SECOND][f"{CROSSING}_scale_inv"]
    error = refusal(layout, tmp_path)
    assert str(error) == (
        f"{tmp_path}: tensors and scales do not match:\n"
        f"  {FIRST}: {CROSSING}: its scale {CROSSING}_scale_inv is in no shard"
    )
    assert error.hint == (
        "the checkpoint is incomplete or of another layout; flagdeploy pull fetches it again"
    )


def test_orphan_scale(tmp_path: Path) -> None:
    layout = deepseek()
    del layout.shards[SECOND][RAGGED]
    assert str(refusal(layout, tmp_path)).endswith(
        f"\n  {SECOND}: {RAGGED}_scale_inv: is a scale without its FP8 tensor"
    )


def test_scale_of_a_tensor_that_is_not_fp8(tmp_path: Path) -> None:
    layout = deepseek()
    layout.shards[SECOND][RAGGED] = torch.zeros(192, 200).bfloat16()
    assert str(refusal(layout, tmp_path)).endswith("is a scale without its FP8 tensor")


def test_scale_of_a_floor_instead_of_a_ceiling(tmp_path: Path) -> None:
    layout = deepseek()
    layout.shards[SECOND][f"{RAGGED}_scale_inv"] = torch.ones(1, 2)
    assert str(refusal(layout, tmp_path)).endswith(
        f"{SECOND}: {RAGGED}: its scale has the shape [1, 2]; "
        "[192, 200] in blocks of [128, 128] needs [2, 2]"
    )


def test_scale_of_an_unknown_dtype(tmp_path: Path) -> None:
    layout = deepseek()
    layout.shards[SECOND][f"{RAGGED}_scale_inv"] = torch.ones(2, 2).double()
    assert str(refusal(layout, tmp_path)).endswith(
        "its scale has the dtype F64, not one of F32, BF16, F8_E8M0, U8"
    )


def test_fp8_tensor_that_is_no_matrix(tmp_path: Path) -> None:
    layout = deepseek()
    layout.shards[SECOND][RAGGED] = torch.zeros(2, 2, 2).to(torch.float8_e4m3fn)
    assert str(refusal(layout, tmp_path)).endswith(
        "is FP8 of shape [2, 2, 2]; only matrices can be dequantized"
    )


def test_many_problems_are_counted(tmp_path: Path) -> None:
    layout = deepseek()
    for shard in layout.shards.values():
        for name in [name for name in shard if name.endswith("_scale_inv")]:
            if "q_a_proj" not in name:
                del shard[name]
    lines = str(refusal(layout, tmp_path)).splitlines()
    assert len(lines) == 12
    assert lines[-1] == "  and 5 more"


def test_a_plain_checkpoint_has_nothing_to_dequantize(tmp_path: Path) -> None:
    layout = Layout({FIRST: {"model.norm.weight": torch.zeros(8).bfloat16()}})
    error = refusal(layout, tmp_path)
    assert str(error) == f"{tmp_path}: is already in plain BF16: there is nothing to dequantize"


def test_other_formats_are_refused_by_name(tmp_path: Path) -> None:
    layout = Layout({FIRST: {"mlp.experts.down_proj_blocks": torch.zeros(1, 8, 1, 16).byte()}})
    error = refusal(layout, tmp_path)
    assert str(error) == (
        f"{tmp_path}: is in MXFP4 (two e2m1 per byte, e8m0 scale per 32), "
        "which cannot be converted to bf16"
    )
    assert error.hint == (
        "dequant reads FP8 e4m3 in scaled blocks (DeepSeek V3, R1, V3.1, V3.2), MXFP4, W4AFP8"
    )


def test_prints_itself(tmp_path: Path) -> None:
    assert str(planned(deepseek(), tmp_path)).splitlines() == [
        f"dequant {tmp_path}: FP8 e4m3 in scaled blocks (DeepSeek V3, R1, V3.1, V3.2) -> bf16",
        "  3 shard(s): 18 tensors dequantized, 8 copied",
        "  839.6 kB read, 1.5 MB written",
        "  config.json: bfloat16, without quantization_config",
        "  copied: generation_config.json, tokenizer.json",
    ]
