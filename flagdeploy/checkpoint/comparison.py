"""Compare a piece of a converted tensor with its source: which bits differ, what was lost."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flagdeploy.checkpoint.jobs import Copy, Dequantize, ShardJob, Work
from flagdeploy.checkpoint.quantize_jobs import (
    DecodeInt4,
    DecodeMxfp4,
    QuantizeFp8,
    QuantizeInt4,
)
from flagdeploy.checkpoint.reading import OpenFolder, Piece
from flagdeploy.checkpoint.reference import Made, Part, plain_values, recompute

Array = NDArray[Any]


class Place(NamedTuple):
    """Where the data of a stored tensor starts."""

    file: str
    offset: int


class Difference(NamedTuple):
    """`elements` of a stored tensor are other than computed: the first of them is number `first`,
    which holds the code `found` instead of `expected`."""

    elements: int
    first: int
    found: int
    expected: int


@dataclass
class Error:
    """What `elements` numbers lost: sums over those that are finite, before and after."""

    elements: int = 0
    wrong: float = 0.0  # sum of (stored - exact)^2
    size: float = 0.0  # sum of exact^2
    largest: float = 0.0  # maximum of |stored - exact|

    def add(self, other: "Error") -> None:
        self.elements += other.elements
        self.wrong += other.wrong
        self.size += other.size
        self.largest = max(self.largest, other.largest)

    @property
    def relative(self) -> float:
        """Relative RMS error: sqrt(sum (stored - exact)^2 / sum exact^2)."""
        return math.sqrt(self.wrong / self.size) if self.size else 0.0


def compare_piece(
    item: Work,
    piece: Piece,
    source: OpenFolder,
    target: OpenFolder,
    places: Sequence[Place],
    *,
    any_nan: bool = False,
) -> tuple[Error, list[Difference | None]]:
    """Compute a piece of `item` again and compare it with the stored tensors at `places`: one, or
    weight and scales. With `any_nan` a NaN may have any bits in plain formats."""
    made = recompute(item, piece, source)
    stored = [
        target.rectangle(
            where.file, where.offset, part.codes.dtype.type, _outline(part), part.across
        )
        for where, part in zip(places, made.parts, strict=True)
    ]
    to = getattr(item, "to", None) if any_nan else None
    found = [differing(part, codes, to) for part, codes in zip(made.parts, stored, strict=True)]
    return _error(made, stored), found


def _outline(part: Part) -> Piece:
    return Piece(part.row, part.column, *part.codes.shape)


def differing(part: Part, stored: Array, any_nan: str | None) -> Difference | None:
    if np.array_equal(part.codes, stored):
        return None
    unequal = part.codes != stored
    if any_nan:
        with np.errstate(all="ignore"):
            both = plain_values(part.codes, any_nan), plain_values(stored, any_nan)
        unequal &= ~(np.isnan(both[0]) & np.isnan(both[1]))
    count = int(np.count_nonzero(unequal))
    if not count:
        return None
    row, column = divmod(int(unequal.argmax()), unequal.shape[1])
    first = (part.row + row) * part.across + part.column + column
    return Difference(count, first, int(stored[row, column]), int(part.codes[row, column]))


def _error(made: Made, stored: list[Array]) -> Error:
    if made.exact is None:
        return Error(stored[0].size)
    with np.errstate(all="ignore"):
        exact, values = made.exact, made.values(stored)
        wrong = values - exact
        total = float(np.vdot(wrong, wrong)), float(np.vdot(exact, exact))
        largest = float(np.abs(wrong).max(initial=0))
        if not math.isfinite(sum(total)):
            finite = np.isfinite(exact) & np.isfinite(values)
            wrong, exact = wrong[finite], exact[finite]
            total = float(np.vdot(wrong, wrong)), float(np.vdot(exact, exact))
            largest = float(np.abs(wrong).max(initial=0))
    return Error(made.exact.size, *total, largest)


def places_of(job: ShardJob, item: Work) -> list[Place]:
    """Where a job of a conversion writes the results of `item`."""
    if isinstance(item, QuantizeInt4 | QuantizeFp8):
        return [Place(job.name, item.at), Place(job.name, item.scale_at)]
    assert isinstance(item, Copy | Dequantize | DecodeInt4 | DecodeMxfp4)
    return [Place(job.name, item.at)]
