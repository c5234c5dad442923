"""Positions, scaling, precision and cache of multi-head latent attention; norms."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, DynamicCache

from flagdeploy.server import mla
from flagdeploy.server.forward import Forward
from flagdeploy.server.kv import BatchCache
from flagdeploy.server.model import LoadedModel
from zoo.faults import Change, replaced

Rounding = Callable[[Tensor], Tensor]


def cast(dtype: torch.dtype) -> Rounding:
    return lambda x: x.to(dtype).to(x.dtype)


def layers(loaded: LoadedModel) -> list[Any]:
    return [layer.self_attn for layer in loaded.model.model.layers]


def rope_theta(theta: float) -> Change:
    def change(loaded: LoadedModel) -> LoadedModel:
        rotary = loaded.model.model.rotary_emb
        dim = 2 * len(rotary.inv_freq)
        powers = torch.arange(0, dim, 2, device=loaded.device).float() / dim
        rotary.inv_freq = theta**-powers
        return loaded

    return change


def rope_not_interleaved(loaded: LoadedModel) -> LoadedModel:
    """Halves rotated against each other, as Llama stores them; DeepSeek stores pairs."""
    loaded.model.config.rope_interleave = False
    return loaded


def scaling(factor: float) -> Change:
    def change(loaded: LoadedModel) -> LoadedModel:
        for layer in layers(loaded):
            layer.scaling *= factor
        return loaded

    return change


def norm_epsilon(value: float) -> Change:
    def change(loaded: LoadedModel) -> LoadedModel:
        for module in loaded.model.modules():
            if hasattr(module, "variance_epsilon"):
                module.variance_epsilon = value
        return loaded

    return change


def latent_norm_skipped(loaded: LoadedModel) -> LoadedModel:
    """`kv_a_layernorm`'s weight left at ones."""
    for layer in layers(loaded):
        layer.kv_a_layernorm.weight.data.fill_(1.0)
    return loaded


def head_zeroed(layer: int, head: int) -> Change:
    """One head of one layer gave NaN, and `nan_to_num` made it zeros."""

    def change(loaded: LoadedModel) -> LoadedModel:
        attention = layers(loaded)[layer]

        def zeroed(_: Any, given: tuple[Tensor]) -> tuple[Tensor]:
            x = given[0].clone()
            size = attention.v_head_dim
            x[..., head * size : (head + 1) * size] = 0.0
            return (x,)

        attention.o_proj.register_forward_pre_hook(zeroed)
        return loaded

    return change


def cache_in(dtype: torch.dtype) -> Change:
    """Latents and rotary keys stored in `dtype` with scale 1, as vLLM's kv_cache_dtype does."""
    rounding = cast(dtype)

    def change(loaded: LoadedModel) -> LoadedModel:
        for kind in (DynamicCache, BatchCache):
            plain = kind.update

            def update(
                self: Any,
                latents: Tensor,
                keys: Tensor,
                *rest: Any,
                plain: Any = plain,
                **more: Any,
            ) -> Any:
                return plain(self, rounding(latents), rounding(keys), *rest, **more)

            replaced(kind, "update", update)
        return loaded

    return change


def softmax_in(dtype: torch.dtype) -> Change:
    """Attention weights rounded to `dtype` before they meet the values."""
    rounding = cast(dtype)

    def attend(
        layer: Any,
        query: Tensor,
        latents: Tensor,
        rope_keys: Tensor,
        attention_mask: Tensor,
        scaling: float,
        **_: Any,
    ) -> tuple[Tensor, None]:
        up = layer.kv_b_proj.weight.view(layer.num_heads, -1, layer.kv_lora_rank)
        up_keys, up_values = up.split([layer.qk_nope_head_dim, layer.v_head_dim], dim=1)
        nope, rope = query.split([layer.qk_nope_head_dim, layer.qk_rope_head_dim], dim=-1)
        scores = torch.einsum("bhqn,hnr->bhqr", nope, up_keys) @ latents.transpose(-1, -2)
        scores = (scores + rope @ rope_keys.transpose(-1, -2)) * scaling + attention_mask
        weights = rounding(scores.softmax(-1, dtype=torch.float32)).to(query.dtype)
        return torch.einsum("bhqr,hvr->bqhv", weights @ latents, up_values), None

    def change(loaded: LoadedModel) -> LoadedModel:
        AttentionInterface.register(mla.NAME, attend)
        return loaded

    return change


def positions_shifted(by: int) -> Change:
    """Decoding rotates by a position `by` too high; prefill is right."""
    plain = Forward._run

    def run(
        self: Forward, ids: Tensor, positions: Tensor, visible: Tensor, cache: Any, *, keep: int
    ) -> Tensor:
        decoding = isinstance(cache, BatchCache)
        return plain(self, ids, positions + by * decoding, visible, cache, keep=keep)

    def change(loaded: LoadedModel) -> LoadedModel:
        replaced(Forward, "_run", run)
        return loaded

    return change


def freed_rows_kept(layer: int) -> Change:
    """A sequence that moves into a freed row of the batch finds its neighbour's cache there."""

    def leave(self: BatchCache, row: int, last: int) -> None:
        for index, tensors in enumerate(zip(self._keys, self._values, strict=True)):
            for tensor in tensors:
                if index != layer:
                    tensor[row] = tensor[last]
                tensor[last] = 0

    def change(loaded: LoadedModel) -> LoadedModel:
        replaced(BatchCache, "leave", leave)
        return loaded

    return change
