"""Activation scales are read as they are or refused by name."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from flagdeploy.checkpoint.act_scales import read_act_scales, write_act_scales
from flagdeploy.errors import CheckpointError

NAME = "model.layers.3.mlp.experts.0.w1.input_scale"


def test_scalars_of_both_dtypes(tmp_path: Path) -> None:
    path = tmp_path / "act_scales.safetensors"
    tensors = {
        NAME: torch.tensor([0.1]),
        "b": torch.tensor(0.5),
        "c": torch.tensor([2.0]).bfloat16(),
    }
    save_file(tensors, path)
    assert read_act_scales(path) == {NAME: float(torch.tensor(0.1)), "b": 0.5, "c": 2.0}


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_what_is_no_scale(tmp_path: Path, bad: float) -> None:
    path = tmp_path / "act_scales.safetensors"
    save_file({NAME: torch.tensor([bad])}, path)
    with pytest.raises(CheckpointError) as caught:
        read_act_scales(path)
    assert str(caught.value) == f"{path}: {NAME}: {bad} is not a scale"


def test_vectors_and_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "act_scales.safetensors"
    save_file({NAME: torch.ones(2)}, path)
    with pytest.raises(CheckpointError) as caught:
        read_act_scales(path)
    assert str(caught.value) == f"{path}: {NAME}: is F32 [2], not one number of F32 or BF16"
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        read_act_scales(tmp_path / "none")


def test_written_scales_are_read_by_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "act_scales.safetensors"
    scales = {f"model.layers.3.mlp.experts.{i}.w1.input_scale": (i + 1) / 8 for i in range(12)}
    write_act_scales(path, scales, {"tokens": "12"})
    loaded = load_file(path)
    assert {name: value.tolist() for name, value in loaded.items()} == {
        name: [value] for name, value in scales.items()
    }
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "tokens": "12"}
    assert read_act_scales(path) == scales
    again = tmp_path / "again"
    write_act_scales(again, dict(reversed(scales.items())), {"tokens": "12"})
    assert again.read_bytes() == path.read_bytes()
    assert {file.name for file in tmp_path.iterdir()} == {path.name, again.name}


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot write .*: No such file or directory"):
        write_act_scales(tmp_path / "none" / "a", {NAME: 1.0}, {})
