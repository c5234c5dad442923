"""What was asked for is not what is done: sampling parameters, limits, stops."""

from collections.abc import Sequence as Rows
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from flagdeploy.server import batch, protocol
from flagdeploy.server.app import Routes
from flagdeploy.server.model import LoadedModel
from flagdeploy.server.protocol import Sampling
from flagdeploy.server.sampling import Choice, next_tokens
from zoo.faults import Change, replaced


def overridden(**fields: Any) -> Change:
    """Sampling fields set to these values, whatever a request says."""
    plain = protocol._sampling

    def sampling(values: dict[str, Any], max_logprobs: int, **more: Any) -> Sampling:
        return replace(plain(values, max_logprobs, **more), **fields)

    def change(loaded: LoadedModel) -> LoadedModel:
        replaced(protocol, "_sampling", sampling)
        return loaded

    return change


def max_tokens_capped(most: int) -> Change:
    """A gateway's limit below what requests ask for."""
    plain = Routes._max_tokens

    def capped(self: Routes, prompt: tuple[int, ...], sampling: Sampling) -> int:
        return min(most, plain(self, prompt, sampling))

    def change(loaded: LoadedModel) -> LoadedModel:
        replaced(Routes, "_max_tokens", capped)
        return loaded

    return change


def ends_at(*ids: int) -> Change:
    """Generation ends at these ids instead of the checkpoint's EOS."""
    return lambda loaded: replace(loaded, eos=frozenset(ids))


def repetition_penalty(penalty: float) -> Change:
    """A default that nobody asked for (CTRL, arXiv 1909.05858, section 4.1; prompt included)."""

    def penalized(logits: Tensor, sequences: Rows[Any]) -> Tensor:
        logits = logits.clone()
        for row, sequence in enumerate(sequences):
            seen = torch.tensor([*sequence.prompt, *sequence.tokens], device=logits.device)
            values = logits[row, seen]
            logits[row, seen] = torch.where(values > 0, values / penalty, values * penalty)
        return logits

    plain = batch.Batch._advance

    def advance(self: batch.Batch, sequences: list[Any], logits: Tensor) -> None:
        def chosen(raw: Tensor, choices: Rows[Choice]) -> list[int]:
            return next_tokens(penalized(raw, sequences), choices)

        before, batch.next_tokens = batch.next_tokens, chosen  # type: ignore[assignment]
        try:
            plain(self, sequences, logits)
        finally:
            batch.next_tokens = before

    def change(loaded: LoadedModel) -> LoadedModel:
        replaced(batch.Batch, "_advance", advance)
        return loaded

    return change
