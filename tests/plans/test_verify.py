"""What headers alone say: scales that do not fit, shapes that are odd, which conversion it is."""

import json
from pathlib import Path

import pytest
import torch
from checkpoint.deepseek_layout import INDEX, Layout, deepseek
from checkpoint.moe_layout import experts, mixture

from flagdeploy.checkpoint.verify import verify
from flagdeploy.errors import CheckpointError
from flagdeploy.plans.verify import expected_of, shape_findings, tasks
from flagdeploy.workflows.dequant import dequant

FIRST, SECOND, THIRD = (f"model-{i:05d}-of-000003.safetensors" for i in (1, 2, 3))
SHARD = "model-00001-of-00001.safetensors"


def found(folder: Path) -> list[str]:
    return [str(finding) for finding in shape_findings(verify(folder))]


def as_stated(folder: Path, layout: Layout, size: int) -> Path:
    """Written with an index that states another size."""
    layout.write(folder)
    index = json.loads((folder / INDEX).read_text())
    index["metadata"]["total_size"] += size
    (folder / INDEX).write_text(json.dumps(index))
    return folder


def test_shapes_that_explain_the_size_are_those_of_another_revision(tmp_path: Path) -> None:
    layout = deepseek()
    name = "model.layers.1.input_layernorm.weight"
    layout.shards[SECOND][name] = torch.ones(150).bfloat16()
    assert found(as_stated(tmp_path / "one", layout, 100)) == [
        f"{SECOND}: foreign: of another revision: {name} is BF16 [150], not BF16 [200] as in "
        "other layers"
    ]
    assert found(as_stated(tmp_path / "not", layout, 99)) == []
    # An oddity that is meant to be, and a shard that explains the size alone.
    layout.shards[THIRD]["model.layers.2.mlp.gate.e_score_correction_bias"] = torch.ones(7)
    assert len(found(as_stated(tmp_path / "among", layout, 100))) == 1
    layout.shards[SECOND]["model.layers.1.mlp.gate.e_score_correction_bias"] = torch.ones(1)
    assert found(as_stated(tmp_path / "two", layout, 104)) == [
        f"{SECOND}: foreign: of another revision: model.layers.1.mlp.gate.e_score_correction_bias "
        "is F32 [1], not F32 [2] as in other layers (and 1 more)"
    ]


def test_scales_of_four_bit_formats(tmp_path: Path) -> None:
    name = experts()[0]
    tensors = {
        name: torch.zeros(4, 64).char(),
        f"{name}_scale_inv": torch.ones(4, 2),
        "model.layers.0.mlp.up_proj.weight": torch.zeros(4, 4).to(torch.float8_e4m3fn),
        "model.layers.0.mlp.up_proj.weight_scale_inv": torch.ones(2, 1),
    }
    assert found(Layout({SHARD: tensors}).write(tmp_path / "w4")) == [
        f"{SHARD}: scale: {name}_scale_inv: is not F32 of shape [4, 1]",
        f"{SHARD}: scale: model.layers.0.mlp.up_proj.weight: its scale has the shape [2, 1]; "
        "[4, 4] in blocks of [128, 128] needs [1, 1]",
    ]
    packed = {"x_blocks": torch.zeros(1, 2, 3, 16).byte()}
    assert found(Layout({SHARD: packed}).write(tmp_path / "mx")) == [
        f"{INDEX}: scale: x_scales: is not U8 of shape [1, 2, 3]"
    ]


@pytest.mark.parametrize("to", ["fp16", "fp32"])
def test_the_target_is_that_of_what_was_quantized(tmp_path: Path, to: str) -> None:
    """Most tensors of gpt-oss are BF16 before and after."""
    plain = {f"model.layers.{i}.input_layernorm.weight": torch.ones(2).bfloat16() for i in range(9)}
    blocks = {"x_blocks": torch.zeros(1, 2, 3, 16).byte(), "x_scales": torch.ones(1, 2, 3).byte()}
    source = Layout({SHARD: plain | blocks}).write(tmp_path / "oss")
    folder = dequant(source, to).folder
    assert expected_of(verify(source), verify(folder), None).plan.to == to


def test_samples_are_spread_over_classes_and_the_same_each_time(tmp_path: Path) -> None:
    source = mixture().write(tmp_path / "R1")
    folder = dequant(source, "bf16").folder
    target = verify(folder)
    expected = expected_of(verify(source), target, None)
    first = [task.stored[0].tensor.name for task in tasks(expected, target, 20)]
    assert len(first) == 20
    assert first == [task.stored[0].tensor.name for task in tasks(expected, target, 20)]
    everything = [task.stored[0].tensor.name for task in tasks(expected, target, None)]
    assert set(first) < set(everything)
    assert sorted(everything) == sorted(expected.tensors)


def test_what_is_plain_before_and_after(tmp_path: Path) -> None:
    source = mixture(fp8=False).write(tmp_path / "V3")
    halves = {name: tensor.half() for name, tensor in mixture(fp8=False).tensors.items()}
    folder = Layout({SHARD: halves}, {"num_hidden_layers": 4}).write(tmp_path / "half")
    with pytest.raises(CheckpointError, match="is already in plain BF16"):
        expected_of(verify(source), verify(folder), None)
