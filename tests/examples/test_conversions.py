"""The model in the box by every route of conversion: it loads, and answers as its precision should.

The pytorch engine computes on plain weights, so what was quantized is decoded again first: exactly,
so that the weights are those an engine with a kernel for the format would compute with.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flagdeploy.errors import CheckpointError
from flagdeploy.server.model import LoadOptions, load
from flagdeploy.workflows.dequant import dequant

CHECKPOINT = Path(__file__).parents[2] / "examples" / "tiny_deepseek_r1" / "checkpoint"
QUESTION = "What is 2 + 3?"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("routes")
    made = {"fp8": CHECKPOINT, "bf16": dequant(CHECKPOINT, "bf16", root / "bf16").folder}

    def add(name: str, source: str, to: str, **options: object) -> None:
        made[name] = dequant(made[source], to, root / name, **options).folder  # type: ignore[arg-type]

    add("w4afp8", "fp8", "w4afp8", act_scales=1.0)
    add("w4afp8 of bf16", "bf16", "w4afp8", act_scales=1.0)
    add("fp8 again", "bf16", "fp8")
    for quantized in ("w4afp8", "w4afp8 of bf16", "fp8 again"):
        add(f"{quantized} > bf16", quantized, "bf16")
    return made


def logits(folder: Path) -> torch.Tensor:
    loaded = load(LoadOptions(directory=folder))
    ids = torch.tensor([loaded.tokens.tokenizer.encode(QUESTION)])
    with torch.no_grad():
        result: torch.Tensor = loaded.model(input_ids=ids).logits[0]
    return result


def test_every_route_loads_and_answers(folders: dict[str, Path]) -> None:
    exact = logits(folders["bf16"])
    error = {}
    for name in folders:
        if name.endswith("> bf16"):
            each = (logits(folders[name]) - exact).square().mean(dim=1).sqrt()
            # Of the positions the median: where the router is of two minds, another expert answers.
            error[name] = float(each.median() / exact.std())
    assert error["fp8 again > bf16"] < 0.02, error
    assert error["fp8 again > bf16"] < error["w4afp8 > bf16"] < 0.2, error
    # The integers are made of BF16 values either way.
    assert error["w4afp8 > bf16"] == error["w4afp8 of bf16 > bf16"]


def test_the_codes_come_back_as_they_were(folders: dict[str, Path]) -> None:
    """FP8 to BF16 and to FP8 again changes scales by a rounding to BF16, and no code."""
    first, again = weights(CHECKPOINT), weights(folders["fp8 again"])
    assert first.keys() == again.keys()
    for name, tensor in first.items():
        if name.endswith("_scale_inv"):
            torch.testing.assert_close(again[name], tensor, rtol=2**-8, atol=0)
        else:
            assert torch.equal(again[name].view(torch.uint8), tensor.view(torch.uint8)), name


def weights(folder: Path) -> dict[str, torch.Tensor]:
    shards = [load_file(path) for path in folder.glob("*.safetensors")]
    return {name: tensor for shard in shards for name, tensor in shard.items()}


@pytest.mark.parametrize("name", ["w4afp8", "fp8 again"])
def test_quantized_ones_are_not_taken_for_plain(folders: dict[str, Path], name: str) -> None:
    with pytest.raises(CheckpointError):
        load(LoadOptions(directory=folders[name]))
