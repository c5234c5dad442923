"""What converters leave wrong in index and config.json, and how it is corrected."""

import json
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import save_file

from flagdeploy.checkpoint.corrections import correct
from flagdeploy.checkpoint.verify import verify
from flagdeploy.errors import CheckpointError

FIRST, SECOND = "model-00000-of-00002.safetensors", "model-00001-of-00002.safetensors"
SCALE = "model.layers.0.mlp.experts.0.w1.input_scale"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two layers in two shards; the index is right."""
    tensor = numpy.zeros((2, 2), "float32")
    save_file({"model.layers.0.w": tensor}, tmp_path / FIRST)
    save_file({"model.layers.1.w": tensor}, tmp_path / SECOND)
    write_index(tmp_path, {"model.layers.0.w": FIRST, "model.layers.1.w": SECOND})
    config = {"num_hidden_layers": 2, "num_nextn_predict_layers": 1, "quantization_config": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def write_index(folder: Path, weight_map: dict[str, str]) -> None:
    content = json.dumps({"metadata": {}, "weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(content)


def read_index(folder: Path) -> dict:
    return json.loads((folder / "model.safetensors.index.json").read_text())


def test_what_is_right_stays_as_it_is(folder):
    assert correct(folder, {}) == ()


def test_keys_are_set_and_removed(folder):
    changes = {"quantization_config": None, "num_nextn_predict_layers": 0}
    assert correct(folder, changes) == ("config.json",)
    assert json.loads((folder / "config.json").read_text()) == {
        "num_hidden_layers": 2,
        "num_nextn_predict_layers": 0,
    }
    assert correct(folder, changes) == ()


def test_an_mtp_layer_that_no_shard_holds_leaves_the_index(folder):
    weight_map = read_index(folder)["weight_map"]
    write_index(folder, weight_map | {"model.layers.2.w": "model-00002-of-00002.safetensors"})
    assert correct(folder, {}) == ("model.safetensors.index.json",)
    assert read_index(folder) == {"metadata": {"total_size": 32}, "weight_map": weight_map}
    verify(folder).require()


def test_another_tensor_that_no_shard_holds_is_an_error(folder):
    weight_map = read_index(folder)["weight_map"]
    write_index(folder, weight_map | {"model.layers.1.v": SECOND, "lm_head.weight": FIRST})
    with pytest.raises(CheckpointError) as raised:
        correct(folder, {})
    assert str(raised.value) == (
        f"{folder}: the index names model.layers.1.v and 1 more, which no shard holds"
    )


def test_scales_that_lie_in_a_shard_and_in_a_file_of_their_own(folder):
    tensor = numpy.zeros((2, 2), "float32")
    scale = {SCALE: numpy.ones(1, "float32")}
    save_file({"model.layers.0.w": tensor, **scale}, folder / FIRST)
    save_file(scale, folder / "act_scales.safetensors")
    write_index(folder, read_index(folder)["weight_map"] | {SCALE: "act_scales.safetensors"})
    assert not verify(folder).ok
    assert correct(folder, {}) == ("model.safetensors.index.json",)
    assert read_index(folder)["weight_map"][SCALE] == FIRST
    verify(folder).require()
