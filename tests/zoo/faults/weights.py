"""Weights that are not those of the checkpoint that is said to be served."""

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from flagdeploy.server.model import LoadedModel
from zoo.checkpoints import FP8, load_revision, stored
from zoo.faults import Change

KEPT = ("embed", "lm_head", "norm", ".gate.weight")  # what quantized checkpoints leave alone


def _linear(loaded: LoadedModel, part: str = "") -> Iterator[Tensor]:
    for name, weight in loaded.model.named_parameters():
        if weight.dim() > 1 and part in name and not any(word in name for word in KEPT):
            yield weight.data


def rounded(bits: int, group: int | None = None) -> Change:
    """To the nearest of 2^bits - 1 levels, one scale per row, or per `group` inputs of a row."""
    levels = 2 ** (bits - 1) - 1

    def change(loaded: LoadedModel) -> LoadedModel:
        for weight in _linear(loaded):
            x = weight.reshape(*weight.shape[:-1], -1, group or weight.shape[-1]).float()
            scale = (x.abs().amax(-1, keepdim=True) / levels).clamp(min=1e-12)
            weight.copy_(((x / scale).round() * scale).reshape(weight.shape))
        return loaded

    return change


def scale_ignored(name: str) -> Change:
    """The FP8 values of one tensor taken as they are, its `weight_scale_inv` never applied."""

    def change(loaded: LoadedModel) -> LoadedModel:
        values, _ = stored(name)
        loaded.model.get_parameter(name).data.copy_(values)
        return loaded

    return change


def scale_transposed(name: str) -> Change:
    """Block scales read column by column: block (i, j) gets the scale of block (j, i)."""

    def change(loaded: LoadedModel) -> LoadedModel:
        values, scales = stored(name)
        _blocks(loaded, name, values, scales.T.reshape(scales.shape))
        return loaded

    return change


def last_scale_of_neighbour(name: str) -> Change:
    """The last, ragged row of blocks takes the scales of the row before it."""

    def change(loaded: LoadedModel) -> LoadedModel:
        values, scales = stored(name)
        scales = torch.cat([scales[:-1], scales[-2:-1]])
        _blocks(loaded, name, values, scales)
        return loaded

    return change


def _blocks(loaded: LoadedModel, name: str, values: Tensor, scales: Tensor) -> None:
    spread = scales.repeat_interleave(128, 0).repeat_interleave(128, 1)
    weight = values * spread[: values.shape[0], : values.shape[1]]
    loaded.model.get_parameter(name).data.copy_(weight)


def gate_and_up_swapped(part: str) -> Change:
    """silu(up) * gate for silu(gate) * up in the routed experts of `part`."""

    def change(loaded: LoadedModel) -> LoadedModel:
        for weight in _linear(loaded, f"{part}mlp.experts.gate_up"):
            weight.copy_(torch.cat(weight.chunk(2, dim=1)[::-1], dim=1))
        return loaded

    return change


def experts_rotated(first: int, end: int) -> Change:
    """Experts [first, end), those of one rank, each in its neighbour's place, in every layer."""

    def change(loaded: LoadedModel) -> LoadedModel:
        for weight in _linear(loaded, "mlp.experts."):
            weight[first:end] = weight[first:end].roll(1, 0)
        return loaded

    return change


def shared_expert_missing(loaded: LoadedModel) -> LoadedModel:
    for weight in _linear(loaded, "shared_experts.down_proj"):
        weight.zero_()
    return loaded


def expert_negated(loaded: LoadedModel) -> LoadedModel:
    loaded.model.model.layers[1].mlp.experts.down_proj.data[0].neg_()
    return loaded


def revision(shard: int | None = None) -> Change:
    """All weights of another revision, or those that shard number `shard` of the FP8 files has."""

    def change(loaded: LoadedModel) -> LoadedModel:
        names = None
        if shard is not None:
            path: Path = sorted(FP8.glob("*.safetensors"))[shard - 1]
            with safe_open(path, "pt") as file:
                names = frozenset(file.keys())
        load_revision(loaded.model, names)
        return loaded

    return change
