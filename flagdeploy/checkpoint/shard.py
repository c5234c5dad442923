"""One output shard while it is written: tiles in, a finished file out."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flagdeploy.checkpoint import quantizing
from flagdeploy.checkpoint.folder import PART, explained, publish
from flagdeploy.checkpoint.fp8 import Dequantizer, decode_scales, itemsize
from flagdeploy.checkpoint.int4 import Int4Quantizer
from flagdeploy.checkpoint.jobs import Copy, Dequantize, Extent, ShardJob, Tile, Work
from flagdeploy.checkpoint.native import NativeDequantizer, dequantizer
from flagdeploy.checkpoint.quantize_jobs import (
    DecodeInt4,
    DecodeMxfp4,
    QuantizeFp8,
    QuantizeInt4,
)
from flagdeploy.checkpoint.safetensors_file import DTYPE_BITS
from flagdeploy.errors import CheckpointError

# Bytes behind the write position that the disk has most likely taken by now.
_WRITTEN_OUT = 64 << 20


class OpenShard:
    """A shard being written and the source files it is read from."""

    def __init__(self, job: ShardJob, source: Path, out: Path, parts: Path | None = None) -> None:
        self.job = job
        self.path = out / job.name
        self.part = (parts or out) / (job.name + PART)
        self.pending = 1
        self.nonfinite: dict[str, int] = {}
        self.descriptors: list[int] = []
        with explained(f"cannot write {self.part}"):
            self.target = self._begin()
        self.files: dict[str, int] = {}
        for name in sorted(job.sources):
            with explained(f"cannot read {source / name}"):
                self.files[name] = os.open(source / name, os.O_RDONLY | os.O_CLOEXEC)
                self.descriptors.append(self.files[name])

    def _begin(self) -> int:
        """Open the file with everything in it that needs no reading."""
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        for place in (self.path, self.part):
            place.parent.mkdir(parents=True, exist_ok=True)
        target = os.open(self.part, flags, 0o666)
        self.descriptors.append(target)
        write_at(target, self.job.head, 0)
        os.ftruncate(target, self.job.nbytes)
        for at, content in self.job.constants:
            write_at(target, content, at)
        return target

    def write(self, item: Work, tile: Tile, scratch: "Scratch") -> int:
        """Convert one tile; returns how many of its values are not finite."""
        if isinstance(item, QuantizeInt4 | DecodeInt4 | QuantizeFp8 | DecodeMxfp4):
            return quantizing.write(self, item, tile, scratch)
        assert isinstance(item, Copy | Dequantize)
        values, bad = self.values(item, tile, scratch)
        self.put(values, item.at + tile.at)
        return bad

    def values(
        self, item: Copy | Dequantize, tile: Tile, scratch: "Scratch"
    ) -> tuple[NDArray[Any], int]:
        """The bytes of a tile, dequantized or as they are, and how many are not finite."""
        extent = Extent(item.source.file, item.source.offset + tile.start, tile.nbytes)
        raw = self.read(extent, scratch.get("raw", tile.nbytes))
        if isinstance(item, Dequantize):
            return self._dequantize(item, tile, raw, scratch)
        return raw, 0

    def _hand_over(self, place: int, nbytes: int) -> None:
        """Have Linux begin to write these pages out, and forget those written a while ago: the disk
        works all the time, not only while a finished shard is synced, and the page cache neither
        grows nor loses what others have in it."""
        for start in (place, place - _WRITTEN_OUT):
            if start >= 0:
                os.posix_fadvise(self.target, start, nbytes, os.POSIX_FADV_DONTNEED)

    def _dequantize(
        self, item: Dequantize, tile: Tile, raw: NDArray[Any], scratch: "Scratch"
    ) -> tuple[NDArray[Any], int]:
        shape = tile.height, tile.nbytes // tile.height
        scales = self._scales(item, tile, shape[1], scratch)
        out = scratch.get("out", tile.nbytes * itemsize(item.to))
        dequantize = scratch.dequantizer(item.to)
        values = out.view(dequantize.dtype).reshape(shape)
        bad = dequantize(raw.reshape(shape), scales, values, tile.row, item.block)
        return out, bad

    def _scales(self, item: Dequantize, tile: Tile, width: int, scratch: "Scratch") -> NDArray[Any]:
        """Rows of scales for the rows of blocks a tile touches, cut to its columns."""
        across = -(-item.shape[1] // item.block[1])
        first = tile.row // item.block[0]
        last = (tile.row + tile.height - 1) // item.block[0]
        line = across * DTYPE_BITS[item.scale_dtype] // 8
        start, nbytes = item.scale.offset + first * line, (last + 1 - first) * line
        extent = Extent(item.scale.file, start, nbytes)
        raw = self.read(extent, scratch.get("scale", extent.nbytes))
        left = tile.column // item.block[1]
        scales = decode_scales(raw, item.scale_dtype).reshape(-1, across)
        return scales[:, left : left - (-width // item.block[1])]

    def put(self, data: NDArray[Any], at: int) -> None:
        """Write the bytes of an array from byte `at` of the shard's file on."""
        with explained(f"cannot write {self.part}"):
            write_at(self.target, data.reshape(-1).view(np.uint8).data, at)
            self._hand_over(at, data.nbytes)

    def read(self, extent: Extent, into: NDArray[Any]) -> NDArray[Any]:
        """Fill `into` (uint8) with the bytes of a source file."""
        with explained(f"cannot read {extent.file}"):
            done = 0
            while done < extent.nbytes:
                count = os.preadv(self.files[extent.file], [into.data[done:]], extent.offset + done)
                if not count:
                    raise CheckpointError(f"{extent.file}: ends early: it was cut while being read")
                done += count
        return into

    def commit(self) -> None:
        with explained(f"cannot write {self.part}"):
            os.fdatasync(self.target)
            self.close()
            publish(self.part, self.path)

    def close(self) -> None:
        while self.descriptors:
            os.close(self.descriptors.pop())


class Scratch:
    """The reused memory of one thread."""

    def __init__(self) -> None:
        self.arrays: dict[str, NDArray[Any]] = {}
        self.dequantizers: dict[str, Dequantizer | NativeDequantizer] = {}
        self.int4 = Int4Quantizer()

    def get(self, name: str, nbytes: int) -> NDArray[Any]:
        array = self.arrays.get(name)
        if array is None or array.size < nbytes:
            array = self.arrays[name] = np.empty(nbytes, np.uint8)
        return array[:nbytes]

    def dequantizer(self, to: str) -> Dequantizer | NativeDequantizer:
        if to not in self.dequantizers:
            self.dequantizers[to] = dequantizer(to)
        return self.dequantizers[to]


def write_at(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` at `offset`; a nearly full disk takes it in pieces before it refuses."""
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count
