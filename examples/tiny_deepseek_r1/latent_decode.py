"""Decode with MLA's latent cache: attend to the 512 latents, not to keys expanded from them.

transformers expands every cached latent with kv_b_proj at every step. For one new token it is much
less work to bring the query into the latent space instead and the result out of it (DeepSeek-V2
paper, section 2.1.2: W_UK is absorbed into W_UQ and W_UV into W_O). The result differs by rounding
alone.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as deepseek

_expanded = deepseek.DeepseekV3Attention.forward


def forward(
    self: Any,
    hidden_states: Tensor,
    position_embeddings: Any,
    attention_mask: Tensor | None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """`DeepseekV3Attention.forward`; takes over when there is one new token and a cache."""
    # transformers 5.24 gave the argument its new name
    cache, batch = rest.get("cache", rest.get("past_key_values")), len(hidden_states)
    if cache is None or hidden_states.shape[1] != 1:
        return _expanded(self, hidden_states, position_embeddings, attention_mask, **rest)
    query = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(hidden_states)))
    query = query.view(batch, 1, self.num_heads, self.qk_head_dim).transpose(1, 2)
    q_nope, q_rope = query.split([self.qk_nope_head_dim, self.qk_rope_head_dim], dim=-1)
    joined = self.kv_a_proj_with_mqa(hidden_states)[:, None]
    latent, k_rope = joined.split([self.kv_lora_rank, self.qk_rope_head_dim], dim=-1)
    q_rope, k_rope = deepseek.apply_rotary_pos_emb_interleave(q_rope, k_rope, *position_embeddings)
    latent, k_rope = cache.update(self.kv_a_layernorm(latent), k_rope, self.layer_idx)

    per_head = self.kv_b_proj.weight.view(self.num_heads, -1, self.kv_lora_rank)
    w_key, w_value = per_head.split([self.qk_nope_head_dim, self.v_head_dim], dim=1)
    # [batch, heads, ...] against [batch, T, ...]: the heads share the latents, so none is copied.
    latent, k_rope = latent[:, 0], k_rope[:, 0]
    q_latent = torch.einsum("bhd,hdr->bhr", q_nope[:, :, 0], w_key)
    scores = (q_latent @ latent.mT + q_rope[:, :, 0] @ k_rope.mT) * self.scaling
    if attention_mask is not None:
        blocked = (
            attention_mask[:, 0] < 0
            if attention_mask.is_floating_point()
            else ~attention_mask[:, 0]
        )
        scores = scores.masked_fill(blocked, float("-inf"))
    share = scores.softmax(-1, dtype=torch.float32).to(scores.dtype)
    heads = torch.einsum("bhr,hdr->bhd", share @ latent, w_value)
    return self.o_proj(heads.flatten(1)[:, None]), None


def install() -> None:
    """Make every DeepSeek-V3 model of this process decode this way."""
    deepseek.DeepseekV3Attention.forward = forward
