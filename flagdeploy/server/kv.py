"""The key-value cache of the running batch: one row per sequence, rows without gaps.

A row holds its sequence from position 0; what lies beyond its length is masked out by the caller.
Rows never read one another, so a sequence's result does not depend on its neighbours.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache


class BatchCache(Cache):
    """Per layer, keys and values of [rows, heads, capacity, dim]; capacity grows by doubling."""

    def __init__(self, rows: int) -> None:
        super().__init__(layers=[])
        self._rows = rows
        self._capacity = 0
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._positions = torch.empty(0)
        self._length = 0

    def begin(self, positions: Tensor, length: int) -> None:
        """Before a forward pass: row i's new token is written at ``positions[i] < length``."""
        self._reserve(length)
        self._positions, self._length = positions, length
        self._index = torch.arange(len(positions), device=positions.device)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Called by each attention layer with the new token's states [B, heads, 1, dim]."""
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        keys[self._index, :, self._positions] = key_states[:, :, 0]
        values[self._index, :, self._positions] = value_states[:, :, 0]
        batch = len(self._positions)
        return keys[:batch, :, : self._length], values[:batch, :, : self._length]

    def join(self, row: int, prefilled: DynamicCache) -> None:
        """Copy a sequence's own cache (batch of 1) into `row`."""
        states: list[tuple[Tensor, Tensor]] = [(entry[0], entry[1]) for entry in prefilled]
        if not self._keys:
            self._keys = [_rows_like(keys, self._rows) for keys, _ in states]
            self._values = [_rows_like(values, self._rows) for _, values in states]
        length = prefilled.get_seq_length()
        self._reserve(length)
        for layer, (keys, values) in enumerate(states):
            self._keys[layer][row, :, :length] = keys[0]
            self._values[layer][row, :, :length] = values[0]

    def leave(self, row: int, last: int) -> None:
        """Free `row` and move row `last` into its place.

        The freed row is zeroed: a masked-out NaN would still turn zero weights into NaN.
        """
        for tensor in (*self._keys, *self._values):
            tensor[row] = tensor[last]
            tensor[last] = 0

    def _reserve(self, length: int) -> None:
        if length > self._capacity:
            self._capacity = max(length, 2 * self._capacity, 256)
            self._keys = [_grown(tensor, self._capacity) for tensor in self._keys]
            self._values = [_grown(tensor, self._capacity) for tensor in self._values]


def _rows_like(states: Tensor, rows: int) -> Tensor:
    return states.new_zeros(rows, states.shape[1], 0, states.shape[3])


def _grown(tensor: Tensor, capacity: int) -> Tensor:
    grown = tensor.new_zeros(*tensor.shape[:2], capacity, tensor.shape[3])
    grown[:, :, : tensor.shape[2]] = tensor
    return grown
