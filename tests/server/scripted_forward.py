"""A model that is only a script, for tests of what surrounds the model."""

from collections.abc import Callable
from typing import Any

import torch

VOCABULARY, EOS = 8, 1


class Letters:
    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        return "".join(chr(ord("a") + token) for token in ids)


class LetterTokens(Letters):
    """What the routes ask of a tokenizer, for prompts that are token ids already."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def check(self, ids: tuple[int, ...], param: str) -> None:
        assert all(token < self.vocab_size for token in ids)

    def text_of(self, token: int) -> str:
        return self.decode([token], skip_special_tokens=False)


class ScriptedForward:
    """Always says token 3; a sequence that began with `ill` breaks as `how` says at its 3rd."""

    def __init__(self, ill: int = -1, how: Callable[[torch.Tensor], None] | None = None) -> None:
        self.cache = self
        self.rows: list[int] = []
        self.ill, self.how = ill, how
        self.largest = 0
        self._first = 0

    def prefill(self, cache: Any, ids: Any, start: int, *, all_logits: bool) -> Any:
        self._first = ids[0]
        return self._logits(1), len(ids)

    def join(self, row: int, cache: Any) -> None:
        assert row == len(self.rows)
        self.rows.append(self._first)

    def leave(self, row: int, last: int) -> None:
        self.rows[row] = self.rows[last]
        self.rows.pop()

    def decode(self, tokens: list[int], lengths: list[int]) -> torch.Tensor:
        assert len(tokens) == len(self.rows)
        self.largest = max(self.largest, len(tokens))
        logits = self._logits(len(tokens))
        for row, first in enumerate(self.rows):
            if first == self.ill and lengths[row] == 3:
                assert self.how is not None
                self.how(logits[row])
        return logits

    def _logits(self, rows: int) -> torch.Tensor:
        return torch.zeros(rows, VOCABULARY).index_fill(1, torch.tensor(3), 5.0)


def spoil(row: torch.Tensor) -> None:
    row[0] = torch.nan


def say_eos(row: torch.Tensor) -> None:
    row[EOS] = 9.0


def crash(row: torch.Tensor) -> None:
    raise RuntimeError("out of memory")
