"""Read samples of quantized or decoded four-bit tensors back: the same bits, and what they cost.

Everything is computed another way than by the conversion: in double precision, whose products and
quotients, rounded to FP32, equal those computed in FP32, and by search among the values of e4m3fn.
"""

import math
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flagdeploy.checkpoint.fp8 import decode_scales, decode_table, round_product
from flagdeploy.checkpoint.fp8_encode import BLOCK
from flagdeploy.checkpoint.int4 import GROUP, bf16_to_fp32
from flagdeploy.checkpoint.jobs import Copy, Dequantize, ShardJob
from flagdeploy.checkpoint.quantize_jobs import QuantizeFp8, QuantizeInt4
from flagdeploy.checkpoint.safetensors_file import DTYPE_BITS

Array = NDArray[Any]

_SAMPLES = 64


def compare_quantized(
    jobs: Iterable[ShardJob], source: Path, out: Path
) -> tuple[str | None, dict[str, float]]:
    """Compare up to 64 samples of the quantized tensors with the source.

    A sample is a block of 128 x 128 (FP8) or a group of 128 (INT4). Returns the first that differs,
    if any, and by class of tensor the relative error ``sqrt(sum (w - q)^2 / sum w^2)``.
    """
    items = [
        (job, item)
        for job in jobs
        for item in job.work
        if isinstance(item, QuantizeInt4 | QuantizeFp8) and item.source.nbytes
    ]
    chance = random.Random(0)
    sums: dict[str, Array] = {}
    for job, item in chance.sample(items, min(_SAMPLES, len(items))):
        if isinstance(item, QuantizeInt4):
            same, exact, stored = _int4(item, source, out / job.name, chance)
        else:
            same, exact, stored = _fp8(item, source, out / job.name, chance)
        if not same:
            return f"{job.name}: {item.name}", {}
        part = np.array([((exact - stored) ** 2).sum(), (exact**2).sum()])
        kind = item.name.removesuffix(".weight").rpartition(".")[2]
        sums[kind] = sums.get(kind, np.zeros(2)) + part
    return None, {
        kind: round(math.sqrt(wrong / size), 6) if size else 0.0
        for kind, (wrong, size) in sorted(sums.items())
    }


def _int4(
    item: QuantizeInt4, source: Path, path: Path, chance: random.Random
) -> tuple[bool, Array, Array]:
    row = chance.randrange(item.shape[0])
    column = chance.randrange(item.shape[1] // GROUP) * GROUP
    exact = _values(item.values, source, item.shape[1], row, column).astype(np.float64)
    scale = np.float32(np.abs(exact).max() / 7) or np.float32(1)
    numbers = np.clip(np.rint((exact / np.float64(scale)).astype(np.float32)), -8, 7)
    numbers = numbers.astype(np.int64)
    first = row * item.shape[1] + column
    packed = _bytes(path, item.at + first // 2, GROUP // 2)
    vllm = item.layout == "vllm"
    expected = numbers + 8 if vllm else numbers & 15
    kept = round_product(np.array([scale]), "bf16") if vllm else np.array([scale])
    place = item.scale_at + first // GROUP * kept.itemsize
    same = np.array_equal(expected[0::2] | expected[1::2] << 4, packed) and np.array_equal(
        kept.view(np.uint8), _bytes(path, place, kept.itemsize)
    )
    stored = bf16_to_fp32(kept) if vllm else kept
    return bool(same), exact, numbers * stored.astype(np.float64)


def _fp8(
    item: QuantizeFp8, source: Path, path: Path, chance: random.Random
) -> tuple[bool, Array, Array]:
    (rows, columns), across = item.shape, -(-item.shape[1] // BLOCK)
    top = chance.randrange(-(-rows // BLOCK)) * BLOCK
    left = chance.randrange(across) * BLOCK
    high, wide = min(BLOCK, rows - top), min(BLOCK, columns - left)
    places = [row * columns + left for row in range(top, top + high)]
    base = item.source.offset
    lines = [_bytes(source / item.source.file, base + 2 * at, 2 * wide) for at in places]
    exact = bf16_to_fp32(np.stack(lines).view(np.uint16)).astype(np.float64)
    scale = np.float32(np.abs(exact).max() / 448) or np.float32(1)
    quotient = (exact / np.float64(scale)).astype(np.float32)
    codes = np.stack([_bytes(path, item.at + at, wide) for at in places])
    place = item.scale_at + (top // BLOCK * across + left // BLOCK) * 4
    same = np.array_equal(codes, _nearest(quotient)) and np.array_equal(
        np.array([scale]).view(np.uint8), _bytes(path, place, 4)
    )
    return bool(same), exact, decode_table()[codes].astype(np.float64) * np.float64(scale)


def _nearest(values: Array) -> Array:
    """The e4m3fn codes nearest to FP32 values; of two as near, the even one."""
    table = decode_table()[:0x7F].astype(np.float64)
    size = np.minimum(np.abs(values.astype(np.float64)), table[-1])
    above = np.searchsorted(table, size)
    below = np.maximum(above - 1, 0)
    up, down = table[above] - size, size - table[below]
    code = np.where((up < down) | ((up == down) & (above % 2 == 0)), above, below)
    signed: Array = np.where(np.signbit(values), code | 0x80, code).astype(np.uint8)
    return signed


def _values(item: Copy | Dequantize, source: Path, columns: int, row: int, column: int) -> Array:
    """One group of 128 values as they were before: BF16, dequantized from FP8 where it was."""
    path, first = source / item.source.file, row * columns + column
    if isinstance(item, Copy):
        raw = _bytes(path, item.source.offset + 2 * first, 2 * GROUP)
        return bf16_to_fp32(raw.view(np.uint16))
    codes = _bytes(path, item.source.offset + first, GROUP)
    size, across = DTYPE_BITS[item.scale_dtype] // 8, -(-columns // item.block[1])
    line = row // item.block[0] * across * size
    raw = _bytes(source / item.scale.file, item.scale.offset + line, across * size)
    scales = decode_scales(raw, item.scale_dtype).astype(np.float64)
    factors = scales[np.arange(column, column + GROUP) // item.block[1]]
    with np.errstate(all="ignore"):
        product = (decode_table()[codes].astype(np.float64) * factors).astype(np.float32)
    return bf16_to_fp32(round_product(product, "bf16"))


def _bytes(path: Path, offset: int, count: int) -> Array:
    return np.fromfile(path, np.uint8, count=count, offset=offset)
