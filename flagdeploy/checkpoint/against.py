"""Compare converted tensors with their source, by several threads: faults, and errors by class."""

import math
import random
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import numpy as np

from flagdeploy.checkpoint.comparison import Difference, Error, Place, compare_piece, differing
from flagdeploy.checkpoint.jobs import Copy, Work
from flagdeploy.checkpoint.pieces import pieces, share
from flagdeploy.checkpoint.reading import OpenFolder, Piece
from flagdeploy.checkpoint.reference import Part
from flagdeploy.checkpoint.safetensors_file import DTYPE_BITS, Tensor, place
from flagdeploy.checkpoint.tensor_class import tensor_class
from flagdeploy.checkpoint.verify import Finding

_SAMPLED_PIECES = 64


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
        return sum(share(self.work, piece) for piece in self.pieces)


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
        return Error(total), [differing(Part(0, 0, len(task.work), codes), found, None)]

    def _count(
        self,
        tally: _Tally,
        piece: Piece | None,
        result: tuple[Error, list[Difference | None]] | None,
    ) -> None:
        if piece and result:
            tally.add(*result)
            self.done += share(tally.task.work, piece)
        tally.pending -= 1
        if tally.pending:
            return
        for output, difference in sorted(tally.differences.items()):
            self.findings.append(_finding(tally.task, output, difference))
        tensor = tally.task.stored[0].tensor
        if isinstance(tally.task.work, Copy):  # which are compared as bytes
            tally.error.elements = tally.error.elements * 8 // DTYPE_BITS[tensor.dtype]
        self.classes[tensor_class(tensor.name)].add(tally)


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
