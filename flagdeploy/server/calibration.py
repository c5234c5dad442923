"""Calibration: the largest inputs that routed experts see while a model runs over prompts.

transformers holds the experts of a layer in one module, ``gate_up_proj`` [E, 2I, H] and
``down_proj`` [E, H, I]; each is computed here expert by expert, as its own class does without
grouped kernels, so that what is recorded is what the matrix products get, to the last bit.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from flagdeploy.errors import EngineError
from flagdeploy.server.forward import Forward
from flagdeploy.server.model import LoadedModel

_EXPERTS = re.compile(r"model\.layers\.(\d+)\.mlp\.experts")


@dataclass(frozen=True)
class ExpertInputs:
    """Of each expert of a layer: how many tokens it saw, and the largest absolute input of its gate
    and up projections (they share it) and of its down projection; 0 where it saw none."""

    tokens: tuple[int, ...]
    gate_up: tuple[float, ...]
    down: tuple[float, ...]


def record_expert_inputs(
    loaded: LoadedModel, prompts: Iterable[tuple[int, ...]], progress: Callable[[int], None]
) -> dict[int, ExpertInputs]:
    """Run `prompts` (token ids, none empty) through the model; what its experts saw, by layer.

    The model's experts stay replaced by recording ones. `progress` gets the length of each prompt
    when it is done. Raises EngineError for experts held in another way, and for inputs that are NaN
    or infinite.
    """
    recorders = {layer: _Recorder(experts) for layer, experts in _experts(loaded.model).items()}
    forward = Forward(loaded, 1)
    with torch.inference_mode():
        for ids in prompts:
            cache, start = DynamicCache(), 0
            while start < len(ids):
                _, count = forward.prefill(cache, ids, start, all_logits=False)
                start += count
            progress(len(ids))
    return {layer: recorder.inputs(layer) for layer, recorder in recorders.items()}


def _experts(model: Any) -> dict[int, Any]:
    """The experts of each layer; EngineError when one is not as described above."""
    found = {}
    for name, module in model.named_modules():
        if match := _EXPERTS.fullmatch(name):
            if not _as_described(module):
                raise EngineError(
                    f"{name}: {type(module).__name__} does not hold its experts as gate_up_proj "
                    "[E, 2I, H] and down_proj [E, H, I]: their inputs cannot be recorded"
                )
            found[int(match[1])] = module
    if not found:
        raise EngineError(f"{type(model).__name__} has no routed experts to calibrate")
    return found


def _as_described(module: Any) -> bool:
    shapes = {name: tuple(weight.shape) for name, weight in module.named_parameters()}
    if shapes.keys() != {"gate_up_proj", "down_proj"} or len(shapes["down_proj"]) != 3:
        return False
    experts, hidden, inner = shapes["down_proj"]
    return shapes["gate_up_proj"] == (experts, 2 * inner, hidden)


class _Recorder:
    """Takes the place of the forward of a layer's `experts`, and remembers what they saw."""

    def __init__(self, experts: Any) -> None:
        self._experts = experts
        zeros = torch.zeros(len(experts.down_proj), device=experts.down_proj.device)
        self._tokens = zeros.long()
        self._gate_up, self._down = zeros.clone(), zeros.clone()
        experts.forward = self.forward

    def forward(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """`hidden` [T, H]; experts `chosen` [T, K] of each token and their `weights` [T, K]."""
        output = torch.zeros_like(hidden)
        slots = chosen.T
        for expert in sorted(set(chosen.flatten().tolist())):
            slot, token = torch.where(slots == expert)
            result = self._one(expert, hidden[token]) * weights[token, slot, None]
            output.index_add_(0, token, result.to(output.dtype))
        return output

    def _one(self, expert: int, hidden: Tensor) -> Tensor:
        """One expert's output [t, H] for its tokens [t, H]."""
        linear = torch.nn.functional.linear
        inner = self._experts._apply_gate(linear(hidden, self._experts.gate_up_proj[expert]))
        self._tokens[expert] += len(hidden)
        for largest, value in ((self._gate_up, hidden), (self._down, inner)):
            largest[expert] = torch.maximum(largest[expert], value.abs().amax().float())
        return linear(inner, self._experts.down_proj[expert])

    def inputs(self, layer: int) -> ExpertInputs:
        bad = ~(self._gate_up.isfinite() & self._down.isfinite())
        if bad.any():
            raise EngineError(
                f"layer {layer}, expert {int(bad.nonzero()[0])}: its inputs are NaN or infinite",
                "compute in another --dtype, and look for NaN in the checkpoint",
            )
        columns = (self._tokens, self._gate_up, self._down)
        tokens, gate_up, down = (tuple(column.tolist()) for column in columns)
        return ExpertInputs(tokens, gate_up, down)
