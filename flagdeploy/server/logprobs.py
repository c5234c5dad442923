"""Log-probabilities and ranks of chosen tokens, and the most likely ones beside them."""

from typing import NamedTuple

import torch
from torch import Tensor


class TokenLogprobs(NamedTuple):
    """One position: natural-log probability and 1-based rank of `token`, and the `top` tokens."""

    token: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...]


def token_logprobs(logits: Tensor, tokens: list[int], k: int) -> list[TokenLogprobs]:
    """For each row of `logits` [N, V] float32, its entry of `tokens` and the `k` most likely."""
    ids = torch.tensor(tokens, dtype=torch.long, device=logits.device)
    chosen = logits.gather(1, ids[:, None])
    normalizer = logits.logsumexp(dim=-1, keepdim=True)
    ranks = ((logits > chosen).sum(dim=-1) + 1).tolist()
    top_logits, top_ids = logits.topk(min(k, logits.shape[1]), dim=-1)
    top_values = (top_logits - normalizer).tolist()
    chosen_values = (chosen - normalizer)[:, 0].tolist()
    return [
        TokenLogprobs(token, value, rank, tuple(zip(near, values, strict=True)))
        for token, value, rank, near, values in zip(
            tokens, chosen_values, ranks, top_ids.tolist(), top_values, strict=True
        )
    ]


def finite_rows(logits: Tensor) -> list[bool]:
    """Which rows of `logits` [N, V] are a distribution: no NaN, no +inf, not all -inf."""
    finite: list[bool] = logits.logsumexp(dim=-1).isfinite().tolist()
    return finite
