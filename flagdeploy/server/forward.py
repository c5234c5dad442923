"""Forward passes: one sequence's prompt in chunks, and one token of every running sequence."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from flagdeploy.server.kv import BatchCache
from flagdeploy.server.model import LoadedModel

CHUNK = 512  # prompt tokens per forward pass
LOGITS = 16 * 2**20  # at most this many float32 logits at once: 64 MiB


def cache_argument(forward: Callable[..., Any]) -> str:
    """What `forward` of a model or layer calls its cache: transformers 5.24 renamed it."""
    new, old = "cache", "past_key_values"
    return new if new in inspect.signature(forward).parameters else old


class Forward:
    """Runs the model for up to `rows` sequences. Logits come out in float32."""

    def __init__(self, loaded: LoadedModel, rows: int) -> None:
        self._model = loaded.model
        self._device = loaded.device
        self._dtype = loaded.model.get_input_embeddings().weight.dtype
        self._cache_argument = cache_argument(loaded.model.forward)
        self._logits_chunk = max(1, min(CHUNK, LOGITS // loaded.tokens.vocab_size))
        self.cache = BatchCache(rows)

    def prefill(
        self, cache: DynamicCache, ids: tuple[int, ...], start: int, *, all_logits: bool
    ) -> tuple[Tensor, int]:
        """Process the next chunk of a prompt `ids` from `start`, appending to its own `cache`.

        Returns logits and the chunk's length n: logits [n, V] with `all_logits` (the chunk is then
        short enough for the logits to stay within `LOGITS`), otherwise [1, V] of its last token.
        """
        count = min(self._logits_chunk if all_logits else CHUNK, len(ids) - start)
        positions = torch.arange(start, start + count, device=self._device)
        keys = torch.arange(start + count, device=self._device)
        logits = self._run(
            torch.tensor([ids[start : start + count]], device=self._device),
            positions[None],
            keys <= positions[:, None],
            cache,
            keep=0 if all_logits else 1,
        )
        return logits[0], count

    def decode(self, tokens: list[int], lengths: list[int]) -> Tensor:
        """Logits [B, V] after row i's newest token ``tokens[i]``, at position ``lengths[i]``."""
        positions = torch.tensor(lengths, device=self._device)
        total = max(lengths) + 1
        self.cache.begin(positions, total)
        visible = torch.arange(total, device=self._device) <= positions[:, None]
        ids = torch.tensor(tokens, device=self._device)[:, None]
        logits = self._run(ids, positions[:, None], visible[:, None], self.cache, keep=1)
        return logits[:, 0]

    def _run(
        self, ids: Tensor, positions: Tensor, visible: Tensor, cache: Any, *, keep: int
    ) -> Tensor:
        """`visible` is [Q, K] or [B, Q, K]; it becomes an additive mask of the model's dtype."""
        mask = torch.zeros(visible.shape, dtype=self._dtype, device=self._device)
        mask = mask.masked_fill_(~visible, -torch.inf)
        output = self._model(
            input_ids=ids,
            attention_mask=mask[None, None] if mask.dim() == 2 else mask[:, None],
            position_ids=positions,
            use_cache=True,
            logits_to_keep=keep,
            **{self._cache_argument: cache},
        )
        logits: Tensor = output.logits.float()
        return logits
