"""Which files of a repository make the checkpoint."""

import pytest

from flagdeploy.errors import CheckpointError
from flagdeploy.plans.pull import plan_pull

GPT_OSS = {
    ".gitattributes": 1,
    "LICENSE": 2,
    "chat_template.jinja": 3,
    "config.json": 4,
    "metal/model.bin": 5_000,
    "model-00000-of-00001.safetensors": 6_000,
    "model.safetensors.index.json": 7,
    "original/config.json": 8,
    "original/model.safetensors": 9_000,
}


def test_second_copies_of_the_weights_are_left_out() -> None:
    plan = plan_pull("openai/gpt-oss-120b", GPT_OSS)
    assert plan.left_out == {
        ".gitattributes": 1,
        "metal/model.bin": 5_000,
        "original/model.safetensors": 9_000,
    }
    assert plan.total_bytes == 6_024
    assert str(plan).splitlines() == [
        "pull openai/gpt-oss-120b: 6 files, 6.0 kB",
        "  left out, 14.0 kB: .gitattributes, metal/model.bin, original/model.safetensors",
    ]


def test_mistral_keeps_one_of_its_two_layouts() -> None:
    files = {"consolidated.safetensors": 1, "model.safetensors": 1, "params.json": 1}
    assert list(plan_pull("m", files).left_out) == ["consolidated.safetensors"]


def test_our_own_record_is_no_part_of_a_checkpoint() -> None:
    plan = plan_pull("m", {"model.safetensors": 1, "flagdeploy.json": 1})
    assert (list(plan.files), plan.left_out) == (["model.safetensors"], {})


def test_a_repository_without_safetensors_is_refused() -> None:
    with pytest.raises(CheckpointError) as caught:
        plan_pull("a/b", {"pytorch_model.bin": 1, "config.json": 1})
    assert str(caught.value) == "a/b: holds no safetensors weights"


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "..", "x\0", "a\\b", ""])
def test_a_name_that_leaves_the_folder_is_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match="leaves the folder"):
        plan_pull("a/b", {"model.safetensors": 1, name: 1})
