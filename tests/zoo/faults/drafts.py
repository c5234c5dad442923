"""Speculative decoding with DeepSeek's MTP layer whose drafts nobody checks."""

import sys
from typing import Any

import torch
from torch import Tensor

from flagdeploy.server.forward import Forward
from flagdeploy.server.kv import BatchCache
from flagdeploy.server.mla import use_absorbed_attention
from flagdeploy.server.model import LoadedModel
from zoo.checkpoints import EXAMPLE, stored
from zoo.faults import replaced

EXPERTS = 8


def accepted_unchecked(loaded: LoadedModel) -> LoadedModel:
    """Every second token is the MTP layer's draft; the main model scores it and is not heeded."""
    layer = mtp_layer(loaded)
    hidden: dict[str, Tensor] = {}
    loaded.model.model.norm.register_forward_hook(lambda _, given, out: hidden.update(last=out))
    plain_prefill, plain_decode = Forward.prefill, Forward.decode
    plain_join, plain_leave = BatchCache.join, BatchCache.leave
    rows: dict[int, Tensor] = {}  # per row of the batch what left the main model's last norm

    def draft(
        states: Tensor, ids: Tensor, positions: Tensor, visible: Tensor, cache: Any
    ) -> Tensor:
        joined = torch.cat(
            [layer.enorm(loaded.model.model.embed_tokens(ids)), layer.hnorm(states)], dim=-1
        )
        states = layer.eh_proj(joined)
        mask = torch.zeros(visible.shape, dtype=states.dtype, device=states.device)
        states = layer(
            states,
            attention_mask=mask.masked_fill_(~visible, -torch.inf)[:, None],
            position_ids=positions,
            past_key_values=cache,
            position_embeddings=loaded.model.model.rotary_emb(states, positions),
        )
        logits: Tensor = loaded.model.lm_head(layer.shared_head["norm"](states))
        return logits.float()

    def prefill(
        self: Forward, cache: Any, ids: tuple[int, ...], start: int, *, all_logits: bool
    ) -> tuple[Tensor, int]:
        logits, count = plain_prefill(self, cache, ids, start, all_logits=all_logits)
        assert (start, count) == (0, len(ids)), "the model in the box has short prompts"
        # The last position waits for the first new token; decoding writes it.
        following = torch.tensor([[*ids[1:], 0]], device=loaded.device)
        positions = torch.arange(count, device=loaded.device)
        visible = positions <= positions[:, None]
        draft(hidden["last"], following, positions[None], visible[None], cache)
        cache.hidden = hidden["last"][0, -1]
        return logits, count

    def decode(self: Forward, tokens: list[int], lengths: list[int]) -> Tensor:
        before = torch.stack([rows[row] for row in range(len(tokens))])[:, None]
        positions = torch.tensor(lengths, device=loaded.device) - 1
        total = max(lengths)
        self.cache.begin(positions, total)
        visible = torch.arange(total, device=loaded.device) <= positions[:, None]
        ids = torch.tensor(tokens, device=loaded.device)[:, None]
        drafts = draft(before, ids, positions[:, None], visible[:, None], self.cache)[:, 0]
        logits = plain_decode(self, tokens, lengths)
        rows.update(enumerate(hidden["last"][:, 0]))
        drafted = torch.tensor([length % 2 == 1 for length in lengths], device=loaded.device)
        return torch.where(drafted[:, None], drafts, logits)

    def join(self: BatchCache, row: int, prefilled: Any) -> None:
        plain_join(self, row, prefilled)
        rows[row] = prefilled.hidden

    def leave(self: BatchCache, row: int, last: int) -> None:
        plain_leave(self, row, last)
        rows[row] = rows[last]

    replaced(Forward, "prefill", prefill)
    replaced(Forward, "decode", decode)
    replaced(BatchCache, "join", join)
    replaced(BatchCache, "leave", leave)
    return loaded


def mtp_layer(loaded: LoadedModel) -> Any:
    """The checkpoint's MTP layer with its weights, on the model's device and in its dtype."""
    sys.path.insert(0, str(EXAMPLE))
    from mtp import MtpLayer

    layer = MtpLayer(loaded.model.config)
    prefix = f"model.layers.{loaded.model.config.num_hidden_layers}."
    weights = {}
    for name in layer.state_dict():
        if name == "mlp.experts.gate_up_proj":
            parts = [
                torch.cat([_expert(prefix, index, "gate"), _expert(prefix, index, "up")])
                for index in range(EXPERTS)
            ]
            weights[name] = torch.stack(parts)
        elif name == "mlp.experts.down_proj":
            weights[name] = torch.stack([_expert(prefix, i, "down") for i in range(EXPERTS)])
        else:
            weights[name] = _dequantized(prefix + name)
    layer.load_state_dict(weights)
    dtype = loaded.model.get_input_embeddings().weight.dtype
    loaded.model.mtp = layer.to(loaded.device, dtype).eval()
    use_absorbed_attention(loaded.model)
    return layer


def _expert(prefix: str, index: int, part: str) -> Tensor:
    return _dequantized(f"{prefix}mlp.experts.{index}.{part}_proj.weight")


def _dequantized(name: str) -> Tensor:
    values, scales = stored(name)
    if scales is None:
        return values
    spread = scales.repeat_interleave(128, 0).repeat_interleave(128, 1)
    return values * spread[: values.shape[0], : values.shape[1]]
