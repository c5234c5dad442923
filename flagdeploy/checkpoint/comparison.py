"""Compare converted tensors with their source: which bits differ, and what the numbers lost."""

import math
import random
import threading
from collections import defaultdict
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
_SIDE = 512  # of a square piece
_COPY_BYTES = 1 << 18
_SAMPLED_PIECES = 64
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
        high, wide = BLOCK, 2 * _SIDE
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
    """What was made of one tensor of the source; bytes instead of work are known beforehand.

    Of a `sampled` one only some pieces are compared, some four million elements.
    """

    work: Work | bytes
    stored: tuple[Stored, ...]
    sampled: bool = False

    @property
    def pieces(self) -> Iterable[Piece]:
        if isinstance(self.work, bytes):
            return [Piece(0, 0, 1, 0)]
        if not self.sampled:
            return pieces(self.work)
        everything = list(pieces(self.work))
        count = min(_SAMPLED_PIECES, len(everything))
        return random.Random(self.stored[0].tensor.name).sample(everything, count)

    @property
    def nbytes(self) -> int:
        """Bytes of the source to read, scales aside."""
        return sum(_share(self, piece) for piece in self.pieces)


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

    @property
    def tensors(self) -> int:
        """How many stored tensors were compared."""
        return sum(found.tensors for found in self.classes)


@dataclass
class _Tally:
    """One tensor while its pieces are compared; `pending` ends at zero."""

    task: Task
    error: Error = field(default_factory=Error)
    differences: dict[int, Difference] = field(default_factory=dict)
    pending: int = 1

    def add(self, error: Error, found: Sequence[Difference | None]) -> None:
        self.error.add(error)
        for output, new in enumerate(found):
            old = self.differences.get(output)
            if new and old:
                first = min(old, new, key=lambda difference: difference.first)
                new = first._replace(elements=old.elements + new.elements)
            if new:
                self.differences[output] = new


@dataclass
class _Class:
    tensors: int = 0
    error: Error = field(default_factory=Error)
    identical: bool = True
    worst: str = ""
    worst_relative: float = 0.0

    def add(self, tally: _Tally) -> None:
        self.tensors += len(tally.task.stored)
        self.error.add(tally.error)
        self.identical &= not tally.differences
        if tally.error.relative > self.worst_relative:
            self.worst = tally.task.stored[0].tensor.name
            self.worst_relative = tally.error.relative


class _Run:
    """What the threads of a comparison share."""

    def __init__(
        self, tasks: Iterable[Task], source: OpenFolder, target: OpenFolder, any_nan: bool
    ) -> None:
        self.source, self.target, self.any_nan = source, target, any_nan
        self.classes: defaultdict[str, _Class] = defaultdict(_Class)
        self.findings: list[Finding] = []
        self.lock, self.stop = threading.Lock(), threading.Event()
        self.done = 0
        self.stream = self._stream(tasks)

    def _stream(self, tasks: Iterable[Task]) -> Iterator[tuple[_Tally, Piece | None]]:
        for task in tasks:
            tally = _Tally(task)
            for piece in task.pieces:
                tally.pending += 1
                yield tally, piece
            # The share of `pending` that a tensor starts with.
            yield tally, None

    def work(self) -> None:
        """One thread: take pieces until there are none."""
        try:
            while not self.stop.is_set():
                with self.lock:
                    tally, piece = next(self.stream, (None, None))
                if tally is None:
                    return
                result = self._compare(tally.task, piece) if piece else None
                with self.lock:
                    self._count(tally, piece, result)
        except BaseException:
            self.stop.set()
            raise

    def _compare(self, task: Task, piece: Piece) -> tuple[Error, list[Difference | None]]:
        places = [Place(stored.file, stored.offset) for stored in task.stored]
        if not isinstance(task.work, bytes):
            return compare_piece(
                task.work, piece, self.source, self.target, places, any_nan=self.any_nan
            )
        codes = np.frombuffer(task.work, np.uint8).reshape(1, -1)
        found = self.target.read(*places[0], len(task.work)).reshape(1, -1)
        total = math.prod(task.stored[0].tensor.shape)
        return Error(total), [_difference(Part(0, 0, len(task.work), codes), found, None)]

    def _count(
        self,
        tally: _Tally,
        piece: Piece | None,
        result: tuple[Error, list[Difference | None]] | None,
    ) -> None:
        if piece and result:
            tally.add(*result)
            self.done += _share(tally.task, piece)
        tally.pending -= 1
        if tally.pending:
            return
        for output, difference in sorted(tally.differences.items()):
            self.findings.append(_finding(tally.task, output, difference))
        tensor = tally.task.stored[0].tensor
        if isinstance(tally.task.work, Copy):  # which are compared as bytes
            tally.error.elements = tally.error.elements * 8 // DTYPE_BITS[tensor.dtype]
        self.classes[tensor_class(tensor.name)].add(tally)


def _share(task: Task, piece: Piece) -> int:
    """The bytes of the source that a piece stands for."""
    if isinstance(task.work, bytes | Copy):
        return piece.width
    count, rows, columns = _matrices(task.work)
    nbytes = task.work.source.nbytes
    return nbytes * piece.height * piece.width // (count * rows * columns)


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

    `progress` is called from the calling thread with the number of source bytes done so far;
    `any_nan` is that of `compare_piece`. Raises CheckpointError when a file cannot be read.
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
    classes = (
        ClassError(
            name=name,
            tensors=found.tensors,
            elements=found.error.elements,
            identical=found.identical,
            largest=found.error.largest,
            relative=found.error.relative,
            worst=found.worst,
            worst_relative=found.worst_relative,
        )
        for name, found in sorted(run.classes.items())
    )
    findings = sorted(run.findings, key=lambda finding: (finding.file, finding.tensor))
    return Comparison(tuple(classes), tuple(findings))


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
