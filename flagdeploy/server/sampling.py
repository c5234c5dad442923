"""The next token of every sequence in a batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flagdeploy.server.protocol import Sampling


@dataclass(frozen=True)
class Choice:
    """How one row is to be sampled: `banned` ids may not come (EOS before `min_tokens`)."""

    sampling: Sampling
    generator: torch.Generator
    banned: tuple[int, ...] = ()


def next_tokens(logits: Tensor, choices: Sequence[Choice]) -> list[int]:
    """One token id per row of `logits` [N, V] float32.

    Temperature 0 takes the most likely token. Otherwise a row draws from its own generator, on the
    CPU: the same seed gives the same tokens whatever else is in the batch.
    """
    if any(choice.banned for choice in choices):
        logits = logits.clone()
        for row, choice in enumerate(choices):
            logits[row, list(choice.banned)] = -torch.inf
    tokens: list[int] = logits.argmax(dim=-1).tolist()
    for row, choice in enumerate(choices):
        if choice.sampling.temperature > 0:
            tokens[row] = _draw(logits[row].cpu(), choice.sampling, choice.generator)
    return tokens


def _draw(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Temperature, then top-k, then top-p, then an exponential race (Gumbel-max) for the token."""
    probabilities = torch.softmax(logits / sampling.temperature, dim=-1)
    if 0 < sampling.top_k < len(probabilities):
        least = probabilities.topk(sampling.top_k).values[-1]
        probabilities = probabilities.where(probabilities >= least, 0.0)
    if sampling.top_p < 1:
        ordered, order = (probabilities / probabilities.sum()).sort(descending=True, stable=True)
        outside = ordered.cumsum(0) - ordered >= sampling.top_p
        outside[0] = False  # top_p = 0 still leaves the most likely token
        probabilities[order[outside]] = 0.0
    race = torch.empty_like(probabilities).exponential_(generator=generator)
    return int((probabilities / race).argmax())
