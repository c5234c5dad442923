"""Multi-head latent attention for decoding, with the up-projections absorbed.

transformers caches the latents of DeepSeek-V2/V3 and expands them through ``kv_b_proj`` over the
whole context at every step. For one query token it is far less work to bring the query to the
latents instead (DeepSeek-V2 paper, arXiv 2405.04434, section 2.1.2): with ``W_UK`` and ``W_UV`` the
two halves of ``kv_b_proj`` of a head, ``q . (W_UK c) = (W_UK^T q) . c`` and
``sum p (W_UV c) = W_UV (sum p c)``. The result is the same up to float rounding.
"""

from typing import Any

import torch
from torch import Tensor

NAME = "flagdeploy_mla"


def use_absorbed_attention(model: Any) -> bool:
    """Let `model` decode with absorbed projections, when its attention is DeepSeek's MLA.

    Versions of transformers without `expand_kv` cache expanded keys: they are left as they are.
    """
    from transformers import AttentionInterface
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention

    layers: list[Any] = [
        module for module in model.modules() if isinstance(module, DeepseekV3Attention)
    ]
    if not layers or not hasattr(DeepseekV3Attention, "expand_kv"):
        return False
    AttentionInterface.register(NAME, _attend)
    model.set_attn_implementation(NAME)
    for layer in layers:
        layer.expand_kv = _keep_latents
    return True


def _keep_latents(latents: Tensor, rope_keys: Tensor) -> tuple[Tensor, Tensor]:
    """Stands in for the layer's `expand_kv`: `_attend` expands them if it has to."""
    return latents, rope_keys


def _attend(
    layer: Any,
    query: Tensor,
    latents: Tensor,
    rope_keys: Tensor,
    attention_mask: Tensor,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of `query` [B, H, Q, nope + rope] over `latents` [B, 1, T, rank].

    `rope_keys` is [B, 1, T, rope], `attention_mask` additive [B, 1, Q, T]; returns [B, Q, H, v].
    """
    if query.shape[2] > 1:
        keys, values = type(layer).expand_kv(layer, latents, rope_keys)
        output = torch.nn.functional.scaled_dot_product_attention(
            query, keys, values, attn_mask=attention_mask, scale=scaling
        )
        return output.transpose(1, 2), None
    return _attend_absorbed(layer, query, latents, rope_keys, attention_mask, scaling), None


def _attend_absorbed(
    layer: Any,
    query: Tensor,
    latents: Tensor,
    rope_keys: Tensor,
    attention_mask: Tensor,
    scaling: float,
) -> Tensor:
    nope, value_dim = layer.qk_nope_head_dim, layer.v_head_dim
    up = layer.kv_b_proj.weight.view(layer.num_heads, nope + value_dim, layer.kv_lora_rank)
    latents, rope_keys = latents[:, 0], rope_keys[:, 0]
    q_nope, q_rope = query[:, :, 0, :nope], query[:, :, 0, nope:]
    q_latent = torch.bmm(q_nope.transpose(0, 1), up[:, :nope]).transpose(0, 1)  # [B, H, rank]
    scores = torch.bmm(q_latent, latents.transpose(1, 2))
    scores = torch.baddbmm(scores, q_rope, rope_keys.transpose(1, 2)) * scaling
    scores = scores + attention_mask[:, 0]
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    context = torch.bmm(weights, latents).transpose(0, 1)  # [H, B, rank]
    return torch.bmm(context, up[:, nope:].transpose(1, 2)).transpose(0, 1)[:, None]
