"""What is recorded of the experts is what their matrix products get."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from flagdeploy.errors import EngineError
from flagdeploy.server import forward
from flagdeploy.server.calibration import record_expert_inputs
from flagdeploy.server.model import LoadedModel, LoadOptions, load
from server.tiny_checkpoint import POISON

# Without the byte whose embedding is NaN.
PROMPTS = [(*range(10, 130), *range(140, 200)), (30, 7, 7, 91), tuple(range(130, 40, -3))]


@pytest.fixture
def loaded(checkpoint: Path) -> LoadedModel:
    return load(LoadOptions(directory=checkpoint))


class Products(TorchFunctionMode):
    """Watches every product with a slice of the experts' weights."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.largest: dict[tuple[int, str, int], float] = {}
        self.rows: dict[tuple[int, str, int], int] = {}
        self._of = {}
        for layer in (1, 2):
            experts = model.model.layers[layer].mlp.experts
            for name in ("gate_up_proj", "down_proj"):
                for number, weight in enumerate(getattr(experts, name)):
                    self._of[weight.data_ptr()] = (layer, name, number)

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is torch.nn.functional.linear and args[1].data_ptr() in self._of:
            key = self._of[args[1].data_ptr()]
            largest = float(args[0].abs().max())
            self.largest[key] = max(self.largest.get(key, 0.0), largest)
            self.rows[key] = self.rows.get(key, 0) + len(args[0])
        return function(*args, **(kwargs or {}))


def as_dicts(inputs: Any) -> tuple[dict[Any, float], dict[Any, int]]:
    largest, rows = {}, {}
    for layer, seen in inputs.items():
        for name, values in (("gate_up_proj", seen.gate_up), ("down_proj", seen.down)):
            for number, value in enumerate(values):
                if seen.tokens[number]:
                    largest[layer, name, number] = value
                    rows[layer, name, number] = seen.tokens[number]
                else:
                    assert value == 0
    return largest, rows


@pytest.mark.parametrize(("chunk", "dtype"), [(512, "float32"), (7, "float32"), (99, "bfloat16")])
def test_the_inputs_of_the_products_to_the_last_bit(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, dtype: str
) -> None:
    monkeypatch.setattr(forward, "CHUNK", chunk)
    loaded = load(LoadOptions(directory=checkpoint, dtype=dtype))
    lengths: list[int] = []
    with Products(loaded.model) as products:
        inputs = record_expert_inputs(loaded, PROMPTS, lengths.append)
    assert as_dicts(inputs) == (products.largest, products.rows)
    assert lengths == [len(prompt) for prompt in PROMPTS]
    for seen in inputs.values():
        assert sum(seen.tokens) == 2 * sum(lengths)  # the router chooses two of eight
        assert len(seen.tokens) == len(seen.gate_up) == len(seen.down) == 8


def test_as_transformers_alone_computes_them(loaded: LoadedModel, reference: Any) -> None:
    inputs = as_dicts(record_expert_inputs(loaded, PROMPTS, lambda count: None))
    reference.set_experts_implementation("eager")
    with torch.no_grad(), Products(reference) as products:
        for prompt in PROMPTS:
            reference(input_ids=torch.tensor([prompt]))
    assert inputs[1] == products.rows
    assert inputs[0] == pytest.approx(products.largest, rel=1e-4)


def test_the_recording_model_answers_as_before(loaded: LoadedModel) -> None:
    ids = torch.tensor([PROMPTS[0]])
    with torch.no_grad():
        before = loaded.model(input_ids=ids).logits
        record_expert_inputs(loaded, PROMPTS[1:], lambda count: None)
        torch.testing.assert_close(loaded.model(input_ids=ids).logits, before)


def test_other_prompts_other_inputs(checkpoint: Path) -> None:
    one, two = (
        record_expert_inputs(load(LoadOptions(directory=checkpoint)), [prompt], lambda count: None)
        for prompt in PROMPTS[:2]
    )
    assert one != two
    assert 0 in two[1].tokens  # four tokens cannot reach eight experts of every layer


def test_nan_is_refused(loaded: LoadedModel) -> None:
    ids = loaded.tokens.encode(f"a{POISON}", add_special_tokens=True)
    with pytest.raises(EngineError, match=r"^layer 1, expert \d: its inputs are NaN or infinite$"):
        record_expert_inputs(loaded, [ids], lambda count: None)


def test_experts_held_in_another_way(loaded: LoadedModel) -> None:
    experts = loaded.model.model.layers[1].mlp.experts
    for name in ("gate_up_proj", "down_proj"):
        setattr(experts, name, torch.nn.Parameter(getattr(experts, name).transpose(1, 2)))
    with pytest.raises(EngineError) as caught:
        record_expert_inputs(loaded, PROMPTS, lambda count: None)
    assert str(caught.value) == (
        "model.layers.1.mlp.experts: DeepseekV3Experts does not hold its experts as gate_up_proj "
        "[E, 2I, H] and down_proj [E, H, I]: their inputs cannot be recorded"
    )


def test_models_without_experts(loaded: LoadedModel) -> None:
    for layer in loaded.model.model.layers:
        layer.mlp = torch.nn.Identity()
    with pytest.raises(EngineError, match="DeepseekV3ForCausalLM has no routed experts"):
        record_expert_inputs(loaded, PROMPTS, lambda count: None)
