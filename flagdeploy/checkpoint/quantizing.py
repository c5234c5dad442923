"""Do one tile of a quantization, or of a decoding of four-bit weights, in an open shard."""

from typing import TYPE_CHECKING

import numpy as np

from flagdeploy.checkpoint import mxfp4
from flagdeploy.checkpoint.fp8 import decode_scales, itemsize, nonfinite, round_product
from flagdeploy.checkpoint.fp8_encode import BLOCK, quantize_blocks
from flagdeploy.checkpoint.int4 import GROUP, bf16_to_fp32, unpack
from flagdeploy.checkpoint.jobs import TILE_BYTES, Extent, Tile
from flagdeploy.checkpoint.quantize_jobs import (
    DecodeInt4,
    DecodeMxfp4,
    QuantizeFp8,
    QuantizeInt4,
)
from flagdeploy.errors import CheckpointError

if TYPE_CHECKING:
    from flagdeploy.checkpoint.shard import OpenShard, Scratch


def write(
    shard: "OpenShard",
    item: QuantizeInt4 | DecodeInt4 | QuantizeFp8 | DecodeMxfp4,
    tile: Tile,
    scratch: "Scratch",
) -> int:
    """Read, convert and write one tile; returns how many values of the result are not finite.

    Raises CheckpointError for NaN and infinities in what is to be quantized.
    """
    if isinstance(item, QuantizeInt4):
        _quantize_int4(shard, item, tile, scratch)
    elif isinstance(item, QuantizeFp8):
        _quantize_fp8(shard, item, tile, scratch)
    elif isinstance(item, DecodeInt4):
        return _decode_int4(shard, item, tile, scratch)
    else:
        return _decode_mxfp4(shard, item, tile, scratch)
    return 0


def _quantize_int4(shard: "OpenShard", item: QuantizeInt4, tile: Tile, scratch: "Scratch") -> None:
    raw, _ = shard.values(item.values, tile, scratch)
    values = raw.view(np.uint16).reshape(-1, GROUP)
    packed = scratch.get("packed", values.size // 2).reshape(-1, GROUP // 2)
    scales = scratch.get("scales", len(values) * 4).view(np.float32)
    vllm = item.layout == "vllm"
    if not scratch.int4(values, packed, scales, offset=vllm):
        raise _refusal(item)
    stored = round_product(scales, "bf16") if vllm else scales
    shard.put(packed, item.at + tile.at)
    shard.put(stored, item.scale_at + tile.at * 2 // GROUP * stored.itemsize)


def _quantize_fp8(shard: "OpenShard", item: QuantizeFp8, tile: Tile, scratch: "Scratch") -> None:
    extent = Extent(item.source.file, item.source.offset + tile.start, tile.nbytes)
    raw = shard.read(extent, scratch.get("raw", tile.nbytes))
    values = bf16_to_fp32(raw.view(np.uint16).reshape(tile.height, -1))
    codes = scratch.get("codes", values.size).reshape(values.shape)
    across = -(-item.shape[1] // BLOCK)
    scales = np.empty(across, np.float32)
    if not quantize_blocks(values, codes, scales):
        raise _refusal(item)
    shard.put(codes, item.at + tile.at)
    shard.put(scales, item.scale_at + tile.row // BLOCK * across * 4)


def _decode_int4(shard: "OpenShard", item: DecodeInt4, tile: Tile, scratch: "Scratch") -> int:
    extent = Extent(item.source.file, item.source.offset + tile.start, tile.nbytes)
    packed = shard.read(extent, scratch.get("raw", tile.nbytes))
    groups = tile.nbytes * 2 // GROUP
    vllm = item.layout == "vllm"
    dtype, size = ("BF16", 2) if vllm else ("F32", 4)
    first = item.scale.offset + tile.start * 2 // GROUP * size
    extent = Extent(item.scale.file, first, groups * size)
    scales = decode_scales(shard.read(extent, scratch.get("scale", groups * size)), dtype)
    values = unpack(packed.reshape(groups, -1), offset=vllm).astype(np.float32)
    with np.errstate(all="ignore"):
        values *= scales[:, None]
    result = round_product(values, item.to)
    shard.put(result, item.at + tile.at)
    return nonfinite(result, item.to)


def _decode_mxfp4(shard: "OpenShard", item: DecodeMxfp4, tile: Tile, scratch: "Scratch") -> int:
    rows, groups = tile.height, item.shape[2] // mxfp4.GROUP
    extent = Extent(item.source.file, item.source.offset + tile.start, tile.nbytes)
    blocks = shard.read(extent, scratch.get("raw", tile.nbytes)).reshape(rows, groups, -1)
    extent = Extent(item.scale.file, item.scale.offset + tile.row * rows * groups, rows * groups)
    exponents = shard.read(extent, scratch.get("scale", rows * groups)).reshape(rows, groups)
    size = itemsize(item.to)
    step = max(1, TILE_BYTES // (rows * mxfp4.GROUP * size))
    bad = 0
    for left in range(0, groups, step):
        part = slice(left, left + step)
        values = mxfp4.decode(blocks[:, part], exponents[:, part])
        result = np.ascontiguousarray(round_product(values, item.to).T)
        shard.put(result, item.at + tile.at + left * mxfp4.GROUP * rows * size)
        bad += nonfinite(result, item.to)
    return bad


def _refusal(item: QuantizeInt4 | QuantizeFp8) -> CheckpointError:
    return CheckpointError(
        f"{item.source.file}: {item.name}: holds NaN or infinities, which cannot be quantized",
        "fetch this file again, or quantize a checkpoint whose weights are finite",
    )
