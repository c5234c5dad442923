"""Answers as JSON: OpenAI's objects with vLLM's additions. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from flagdeploy.server.logprobs import TokenLogprobs
from flagdeploy.server.sequence import Delta

LEAST = -9999.0  # stands for -inf, which JSON lacks (vLLM's value)
Entry = TokenLogprobs | None


@dataclass(frozen=True)
class Header:
    """What every object of one answer carries. `created` is in Unix seconds."""

    id: str
    created: int
    model: str

    def wrap(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return head | {"choices": choices} | more


@dataclass(frozen=True)
class Labels:
    """How tokens are written: their text, or ``token_id:N`` where two may decode alike."""

    text_of: Callable[[int], str]
    as_ids: bool

    def __call__(self, token: int) -> str:
        return f"token_id:{token}" if self.as_ids else self.text_of(token)


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def completion_choice(delta: Delta, text: str, logprobs: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "index": delta.index,
        "text": text,
        "logprobs": logprobs,
        "finish_reason": delta.finish_reason,
        "stop_reason": delta.stop_reason,
    }


def chat_choice(
    delta: Delta, part: str, message: dict[str, Any], logprobs: dict[str, Any] | None
) -> dict[str, Any]:
    """`part` is ``message``, or ``delta`` in a stream."""
    return {
        "index": delta.index,
        part: message,
        "logprobs": logprobs,
        "finish_reason": delta.finish_reason,
        "stop_reason": delta.stop_reason,
    }


def completion_logprobs(
    tokens: Sequence[int], entries: Sequence[Entry], k: int, labels: Labels, offset: int
) -> dict[str, Any]:
    """OpenAI's legacy shape; `offset` is where the first token's text begins.

    An entry of None is the first prompt token, which nothing precedes.
    """
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(labels.text_of(token))
    return {
        "tokens": [labels(token) for token in tokens],
        "token_logprobs": [entry and _finite(entry.logprob) for entry in entries],
        "top_logprobs": [entry and _top_dict(entry, k, labels) for entry in entries],
        "text_offset": offsets,
    }


def _top_dict(entry: TokenLogprobs, k: int, labels: Labels) -> dict[str, float]:
    """The `k` most likely tokens, and the chosen one if it is not among them."""
    chosen = (entry.token, entry.logprob)
    return {labels(token): _finite(value) for token, value in (*entry.top[:k], chosen)}


def chat_logprobs(entries: Sequence[TokenLogprobs], k: int, labels: Labels) -> dict[str, Any]:
    content = [
        _chat_token(entry.token, entry.logprob, labels)
        | {"top_logprobs": [_chat_token(*top, labels) for top in entry.top[:k]]}
        for entry in entries
    ]
    return {"content": content}


def _chat_token(token: int, logprob: float, labels: Labels) -> dict[str, Any]:
    label = labels(token)
    return {"token": label, "logprob": _finite(logprob), "bytes": list(label.encode())}


def prompt_logprobs(
    entries: Sequence[Entry], k: int, text_of: Callable[[int], str]
) -> list[dict[str, Any] | None]:
    """vLLM's shape: per prompt token, ids to logprob, rank and text, of it and the `k` top ones."""
    return [entry and _ranked(entry, k, text_of) for entry in entries]


def _ranked(entry: TokenLogprobs, k: int, text_of: Callable[[int], str]) -> dict[str, Any]:
    rows = [(entry.token, entry.logprob, entry.rank)]
    rows += [(token, value, rank) for rank, (token, value) in enumerate(entry.top[:k], start=1)]
    ranked: dict[str, Any] = {}
    for token, value, rank in rows:
        text = text_of(token)
        ranked.setdefault(
            str(token), {"logprob": _finite(value), "rank": rank, "decoded_token": text}
        )
    return ranked


def _finite(logprob: float) -> float:
    return max(logprob, LEAST)
