"""Read parts of a converted checkpoint back and compute them again, another way."""

import random
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from flagdeploy.checkpoint.fp8 import decode_scales, decode_table, itemsize, round_product
from flagdeploy.checkpoint.jobs import Copy, Dequantize, Extent, ShardJob
from flagdeploy.checkpoint.safetensors_file import DTYPE_BITS

_SAMPLES = 32
_SAMPLE_BYTES = 4096


def compare_samples(
    weight_map: Mapping[str, str], job: Callable[[str], ShardJob], source: Path, out: Path
) -> str | None:
    """Compare samples of up to 32 random tensors with the source; name the first that differs.

    A sample is one row of one block of an FP8 tensor, from the table of FP8 values instead of their
    bits, or the first 4 kB of a copied tensor. `job` gives the job of a shard of `weight_map`.
    """
    chance = random.Random(0)
    names = chance.sample(sorted(weight_map), min(_SAMPLES, len(weight_map)))
    for shard in sorted({weight_map[name] for name in names}):
        made = job(shard)
        for item in made.work:
            if item.name not in names or not item.source.nbytes:
                continue
            if isinstance(item, Dequantize):
                same = _same_row(made, item, source, out, chance)
            elif isinstance(item, Copy):
                same = _same_start(made, item, source, out)
            else:  # quantized tensors have samples of their own
                continue
            if not same:
                return f"{shard}: {item.name}"
    return None


def _same_start(job: ShardJob, item: Copy, source: Path, out: Path) -> bool:
    count = min(_SAMPLE_BYTES, item.source.nbytes)
    expected = _bytes(source, Extent(item.source.file, item.source.offset, count))
    return bool((expected == _bytes(out, Extent(job.name, item.at, count))).all())


def _same_row(
    job: ShardJob, item: Dequantize, source: Path, out: Path, chance: random.Random
) -> bool:
    rows, columns = item.shape
    row, block = chance.randrange(rows), chance.randrange(-(-columns // item.block[1]))
    left = block * item.block[1]
    count = min(item.block[1], columns - left)
    start = row * columns + left
    codes = _bytes(source, Extent(item.source.file, item.source.offset + start, count))
    size = DTYPE_BITS[item.scale_dtype] // 8
    place = (row // item.block[0]) * -(-columns // item.block[1]) + block
    raw = _bytes(source, Extent(item.scale.file, item.scale.offset + place * size, size))
    scale = decode_scales(raw, item.scale_dtype)
    # The product of a 4-bit and a 24-bit significand is exact in double precision.
    with np.errstate(all="ignore"):
        exact = decode_table()[codes].astype(np.float64) * scale.astype(np.float64)
        product = exact.astype(np.float32)
    expected = round_product(product, item.to).view(np.uint8)
    width = itemsize(item.to)
    written = _bytes(out, Extent(job.name, item.at + start * width, count * width))
    return bool((expected == written).all())


def _bytes(folder: Path, extent: Extent) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.fromfile(folder / extent.file, np.uint8, count=extent.nbytes, offset=extent.offset)
