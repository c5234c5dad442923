"""Compare converted tensors with their source: which bits differ, and what the numbers lost."""

import math
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flagdeploy.checkpoint.fp8_encode import BLOCK
from flagdeploy.checkpoint.int4 import GROUP
from flagdeploy.checkpoint.jobs import Copy, Dequantize, ShardJob, Work
from flagdeploy.checkpoint.mxfp4 import GROUP as MX_GROUP
from flagdeploy.checkpoint.quantize_jobs import (
    DecodeInt4,
    DecodeMxfp4,
    QuantizeFp8,
    QuantizeInt4,
)
from flagdeploy.checkpoint.reading import OpenFolder, Piece
from flagdeploy.checkpoint.reference import Made, Part, plain_values, recompute
from flagdeploy.checkpoint.safetensors_file import DTYPE_BITS, Tensor, place
from flagdeploy.checkpoint.tensor_class import tensor_class
from flagdeploy.checkpoint.verify import Finding

Array = NDArray[Any]

# Elements of a piece: some ten arrays of doubles, which stay in the caches.
_ELEMENTS = 1 << 16
_SIDE = 512
_COPY_BYTES = 1 << 20
_SAMPLE_BYTES = 4096


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
    found = [_difference(part, codes, to) for part, codes in zip(made.parts, stored, strict=True)]
    return _error(made, stored), found


def _outline(part: Part) -> Piece:
    return Piece(part.row, part.column, *part.codes.shape)


def _difference(part: Part, stored: Array, any_nan: str | None) -> Difference | None:
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


def pieces(item: Work) -> Iterator[Piece]:
    """Cut a whole tensor into pieces."""
    if isinstance(item, Copy):
        for start in range(0, item.source.nbytes, _COPY_BYTES):
            yield Piece(0, start, 1, min(_COPY_BYTES, item.source.nbytes - start))
        return
    count, rows, columns = _matrices(item)
    high = max(1, _ELEMENTS // max(columns, 1))
    wide = columns if columns <= _ELEMENTS else _ELEMENTS
    if isinstance(item, QuantizeFp8):
        high, wide = BLOCK, _SIDE
    elif isinstance(item, DecodeMxfp4):
        high = wide = _SIDE
    for first in range(0, count * rows, rows) if rows * columns else ():
        for row in range(0, rows, high):
            for column in range(0, columns, wide):
                height, width = min(high, rows - row), min(wide, columns - column)
                yield Piece(first + row, column, height, width)


def any_piece(item: Work, chance: random.Random) -> Piece:
    """A small piece at a random place of a tensor that is not empty: one scale and what it scales,
    or one row of that; 4 kB of a copied tensor."""
    if isinstance(item, Copy):
        start = chance.randrange(item.source.nbytes) // _SAMPLE_BYTES * _SAMPLE_BYTES
        return Piece(0, start, 1, min(_SAMPLE_BYTES, item.source.nbytes - start))
    count, rows, columns = _matrices(item)
    wide = {DecodeMxfp4: MX_GROUP, QuantizeFp8: BLOCK}.get(type(item), GROUP)
    if isinstance(item, Dequantize):
        wide = item.block[1]
    high = BLOCK if isinstance(item, QuantizeFp8) else 1
    row = chance.randrange(-(-count * rows // high)) * high
    column = chance.randrange(-(-columns // wide)) * wide
    return Piece(row, column, min(high, count * rows - row), min(wide, columns - column))


def _matrices(item: Work) -> tuple[int, int, int]:
    """How many matrices a tensor has, and their rows and columns."""
    assert isinstance(item, Dequantize | QuantizeFp8 | QuantizeInt4 | DecodeInt4 | DecodeMxfp4)
    return item.shape if isinstance(item, DecodeMxfp4) else (1, *item.shape)


def places_of(job: ShardJob, item: Work) -> list[Place]:
    """Where a job of a conversion writes the results of `item`."""
    if isinstance(item, QuantizeInt4 | QuantizeFp8):
        return [Place(job.name, item.at), Place(job.name, item.scale_at)]
    assert isinstance(item, Copy | Dequantize | DecodeInt4 | DecodeMxfp4)
    return [Place(job.name, item.at)]


@dataclass(frozen=True)
class Stored:
    """A tensor of the folder that is checked; its data starts at byte `offset` of `file`."""

    file: str
    offset: int
    tensor: Tensor


@dataclass(frozen=True)
class Task:
    """What was made of one tensor of the source; bytes instead of work are known beforehand."""

    work: Work | bytes
    stored: tuple[Stored, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the source to read, scales aside."""
        return len(self.work) if isinstance(self.work, bytes) else self.work.source.nbytes


@dataclass(frozen=True)
class ClassError:
    """What a class of tensors lost; `identical` when every bit is as defined.

    `relative` is the relative RMS error and `largest` the largest difference from the exact values;
    `worst` is the tensor with the largest relative error, `worst_relative`.
    """

    name: str
    tensors: int
    elements: int
    identical: bool
    largest: float
    relative: float
    worst: str
    worst_relative: float


@dataclass(frozen=True)
class Comparison:
    """What comparing tensors with their source told, by class of tensor."""

    classes: tuple[ClassError, ...]
    findings: tuple[Finding, ...]


@dataclass
class _Tally:
    error: Error = field(default_factory=Error)
    differences: dict[int, Difference] = field(default_factory=dict)

    def add(self, error: Error, found: Sequence[Difference | None]) -> None:
        self.error.add(error)
        for output, new in enumerate(found):
            old = self.differences.get(output)
            if new and old:
                first = min(old, new, key=lambda difference: difference.first)
                new = first._replace(elements=old.elements + new.elements)
            if new:
                self.differences[output] = new


class _Run:
    """What the threads of a comparison share."""

    def __init__(
        self, tasks: Iterable[Task], source: OpenFolder, target: OpenFolder, any_nan: bool
    ) -> None:
        self.source, self.target, self.any_nan = source, target, any_nan
        self.tallies: list[tuple[Task, _Tally]] = []
        self.lock, self.stop = threading.Lock(), threading.Event()
        self.done = 0
        self.stream = self._stream(tasks)

    def _stream(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, _Tally, Piece | None]]:
        for task in tasks:
            tally = _Tally()
            self.tallies.append((task, tally))
            for piece in [None] if isinstance(task.work, bytes) else pieces(task.work):
                yield task, tally, piece

    def work(self) -> None:
        try:
            while not self.stop.is_set():
                with self.lock:
                    task, tally, piece = next(self.stream, (None, None, None))
                if task is None or tally is None:
                    return
                error, found = self._compare(task, piece)
                with self.lock:
                    tally.add(error, found)
                    self.done += _share(task, piece)
        except BaseException:
            self.stop.set()
            raise

    def _compare(self, task: Task, piece: Piece | None) -> tuple[Error, list[Difference | None]]:
        if isinstance(task.work, bytes) or piece is None:
            assert isinstance(task.work, bytes)
            where, length = task.stored[0], len(task.work)
            codes = np.frombuffer(task.work, np.uint8).reshape(1, -1)
            found = self.target.read(where.file, where.offset, length).reshape(1, -1)
            return Error(length), [_difference(Part(0, 0, length, codes), found, None)]
        places = [Place(stored.file, stored.offset) for stored in task.stored]
        return compare_piece(
            task.work, piece, self.source, self.target, places, any_nan=self.any_nan
        )


def _share(task: Task, piece: Piece | None) -> int:
    """The bytes of the source that a piece stands for."""
    if piece is None or isinstance(task.work, bytes | Copy):
        return piece.width if piece else task.nbytes
    count, rows, columns = _matrices(task.work)
    return task.nbytes * piece.height * piece.width // (count * rows * columns)


def compare(
    tasks: Iterable[Task],
    source: OpenFolder,
    target: OpenFolder,
    workers: int,
    progress: Callable[[int], None],
    *,
    any_nan: bool = False,
) -> Comparison:
    """Compare whole tensors, each taken when its turn comes; memory is some pieces per thread.

    `progress` is called from the calling thread with the number of source bytes done so far. Raises
    CheckpointError when a file cannot be read.
    """
    run = _Run(tasks, source, target, any_nan)
    with ThreadPoolExecutor(workers, thread_name_prefix="verify") as pool:
        pending = threads = {pool.submit(run.work) for _ in range(workers)}
        try:
            while pending:
                _, pending = wait(pending, timeout=0.2, return_when=FIRST_EXCEPTION)
                progress(run.done)
        finally:
            run.stop.set()
    for thread in threads:
        thread.result()
    findings = [
        _finding(task, output, difference)
        for task, tally in run.tallies
        for output, difference in sorted(tally.differences.items())
    ]
    return Comparison(_classes(run.tallies), tuple(findings))


def _finding(task: Task, output: int, difference: Difference) -> Finding:
    stored = task.stored[output]
    tensor, (count, first, found, expected) = stored.tensor, difference
    bits = DTYPE_BITS[tensor.dtype]
    total, unit, codes = math.prod(tensor.shape), "elements", ""
    if isinstance(task.work, bytes | Copy):
        total, unit, first = tensor.nbytes, "bytes", first * 8 // bits
    else:
        codes = f": 0x{found:0{bits // 4}x}, not 0x{expected:0{bits // 4}x}"
    where = f"the first at {place(first, tensor.shape)}{codes}"
    return Finding(stored.file, "differs", f"{count} of {total} {unit}, {where}", tensor.name)


def _classes(tallies: Iterable[tuple[Task, _Tally]]) -> tuple[ClassError, ...]:
    groups: dict[str, list[tuple[str, _Tally]]] = {}
    for task, tally in tallies:
        name = task.stored[0].tensor.name
        if isinstance(task.work, Copy):
            tally.error.elements = math.prod(task.stored[0].tensor.shape)
        groups.setdefault(tensor_class(name), []).append((name, tally))
    return tuple(_class(name, members) for name, members in sorted(groups.items()))


def _class(name: str, members: Sequence[tuple[str, _Tally]]) -> ClassError:
    total = Error()
    for _, tally in members:
        total.add(tally.error)
    worst, tally = max(members, key=lambda member: member[1].error.relative)
    return ClassError(
        name=name,
        tensors=len(members),
        elements=total.elements,
        identical=not any(member.differences for _, member in members),
        largest=total.largest,
        relative=total.relative,
        worst=worst,
        worst_relative=tally.error.relative,
    )
