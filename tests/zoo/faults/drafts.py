"""Speculative decoding with DeepSeek's MTP layer whose drafts nobody checks."""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flagdeploy.server import batch, sampling
from flagdeploy.server.forward import Forward, cache_argument
from flagdeploy.server.kv import BatchCache
from flagdeploy.server.mla import use_absorbed_attention
from flagdeploy.server.model import LoadedModel
from flagdeploy.server.sampling import Choice
from zoo.checkpoints import EXAMPLE, stored
from zoo.faults import Change, replaced

EXPERTS = 8


def accepted_unchecked(count: int) -> Change:
    """After each token of the main model come `count` drafts of the MTP layer, never verified.

    Beyond the first draft the layer goes on from its own output, as vLLM's and SGLang's
    multi-step drafting with one MTP layer does.
    """
    return lambda loaded: _Drafting(loaded, count).installed()


class _Drafting:
    """Runs the MTP layer beside the main model, with its keys and values as one more layer's.

    `states` holds for each row of the batch two vectors [2, size]: what left the main model's
    last norm, and what left the MTP layer, both at the newest position.
    """

    def __init__(self, loaded: LoadedModel, count: int) -> None:
        self.loaded, self.count = loaded, count
        self.layer = mtp_layer(loaded)
        self.main = torch.empty(0)
        self.states: dict[int, Tensor] = {}
        self.chosen_from: Tensor | None = None
        loaded.model.model.norm.register_forward_hook(self._keep)

    def _keep(self, _: Any, given: Any, out: Tensor) -> None:
        self.main = out

    def installed(self) -> LoadedModel:
        plain_prefill, plain_decode = Forward.prefill, Forward.decode
        plain_join, plain_leave = BatchCache.join, BatchCache.leave

        def prefill(
            forward: Forward, cache: Any, ids: tuple[int, ...], start: int, *, all_logits: bool
        ) -> tuple[Tensor, int]:
            logits, count = plain_prefill(forward, cache, ids, start, all_logits=all_logits)
            cache.state = self._prefilled(ids, start, count, cache)
            return logits, count

        def decode(forward: Forward, tokens: list[int], lengths: list[int]) -> Tensor:
            drafts, after = self._drafted(tokens, lengths, forward.cache)
            logits = plain_decode(forward, tokens, lengths)
            both = torch.stack([self.main[:, 0], after], dim=1)
            self.states.update(enumerate(both))
            drafted = torch.tensor(self._phases(lengths), device=self.loaded.device) > 0
            self.chosen_from = torch.where(drafted[:, None], drafts, logits)
            return logits  # log-probabilities are those of the main model, as vLLM reports them

        def next_tokens(logits: Tensor, choices: Sequence[Choice]) -> list[int]:
            if self.chosen_from is not None:
                logits, self.chosen_from = self.chosen_from, None
            return sampling.next_tokens(logits, choices)

        def join(cache: BatchCache, row: int, prefilled: Any) -> None:
            plain_join(cache, row, prefilled)
            self.states[row] = prefilled.state

        def leave(cache: BatchCache, row: int, last: int) -> None:
            plain_leave(cache, row, last)
            self.states[row] = self.states[last]

        replaced(Forward, "prefill", prefill)
        replaced(Forward, "decode", decode)
        replaced(batch, "next_tokens", next_tokens)
        replaced(BatchCache, "join", join)
        replaced(BatchCache, "leave", leave)
        return self.loaded

    def _phases(self, lengths: list[int]) -> list[int]:
        """Per row 0 where the main model's token is taken, else which draft it is."""
        return [length % (self.count + 1) for length in lengths]

    def _prefilled(self, ids: tuple[int, ...], start: int, count: int, cache: Any) -> Tensor:
        # The last position waits for the first new token; decoding writes it.
        following = [*ids[1:], 0][start : start + count]
        tokens = torch.tensor([following], device=self.loaded.device)
        keys = torch.arange(start + count, device=self.loaded.device)
        positions = keys[start:]
        visible = keys <= positions[:, None]
        newest = self.main[0, -1]
        self._run(self.main, tokens, positions[None], visible[None], cache)
        return torch.stack([newest, newest])

    def _drafted(
        self, tokens: list[int], lengths: list[int], cache: BatchCache
    ) -> tuple[Tensor, Tensor]:
        """Logits [B, V] of the drafts, and what left the layer [B, size]."""
        states = [
            self.states[row][int(phase > 1)] for row, phase in enumerate(self._phases(lengths))
        ]
        positions = torch.tensor(lengths, device=self.loaded.device) - 1
        cache.begin(positions, max(lengths))
        visible = torch.arange(max(lengths), device=self.loaded.device) <= positions[:, None]
        ids = torch.tensor(tokens, device=self.loaded.device)[:, None]
        before = torch.stack(states)[:, None]
        after = self._run(before, ids, positions[:, None], visible[:, None], cache)
        after = self.layer.shared_head["norm"](after)
        logits: Tensor = self.loaded.model.lm_head(after)
        return logits[:, 0].float(), after[:, 0]

    def _run(
        self, states: Tensor, ids: Tensor, positions: Tensor, visible: Tensor, cache: Any
    ) -> Tensor:
        """DeepSeek-V3 report, section 2.2: the state at a position and the token after it."""
        embedded = self.layer.enorm(self.loaded.model.model.embed_tokens(ids))
        states = self.layer.eh_proj(torch.cat([embedded, self.layer.hnorm(states)], dim=-1))
        mask = torch.zeros(visible.shape, dtype=states.dtype, device=states.device)
        after: Tensor = self.layer(
            states,
            attention_mask=mask.masked_fill_(~visible, -torch.inf)[:, None],
            position_ids=positions,
            position_embeddings=self.loaded.model.model.rotary_emb(states, positions),
            **{cache_argument(self.layer.forward): cache},
        )
        return after


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
