"""Stands in for tt-metal's script of this name: its command line, its files, its defects.

It refuses a folder that is not empty, writes hidden temporary shards, renames them at the end,
leaves `quantization_config` in config.json and puts no format into the headers. The variable
STANDIN makes it fail: `raise`, `hang` after the first shard, or `fill` a small disk.
"""

import argparse
import json
import os
import shutil
import struct
import time
from pathlib import Path

from safetensors_lite import Tensor, read, write


def decode(code: int) -> float:
    """FP8 e4m3fn (OCP 8-bit floating point, table 2)."""
    sign, exponent, mantissa = code >> 7, code >> 3 & 15, code & 7
    if exponent == mantissa + 8 == 15:
        return float("nan")
    value = mantissa * 2.0**-9 if not exponent else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    return -value if sign else value


def bfloat16(value: float) -> int:
    """Rounded to nearest even."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 & 0xFFFF


def dequantize(weight: Tensor, scale: Tensor) -> Tensor:
    _, (rows, columns), codes = weight
    scales = struct.unpack(f"<{len(scale[2]) // 4}f", scale[2])
    out = bytearray(2 * len(codes))
    wide = scale[1][1]
    for index, factor in enumerate(scales):
        top, left = index // wide * 128, index % wide * 128
        words = [bfloat16(decode(code) * factor) for code in range(256)]
        low = bytes(word & 255 for word in words)
        high = bytes(word >> 8 for word in words)
        for row in range(top, min(top + 128, rows)):
            begin, end = row * columns + left, row * columns + min(left + 128, columns)
            out[2 * begin : 2 * end : 2] = codes[begin:end].translate(low)
            out[2 * begin + 1 : 2 * end : 2] = codes[begin:end].translate(high)
    return "BF16", [rows, columns], bytes(out)


def misbehave(output: Path, how: str) -> None:
    if how == "raise":
        raise KeyError("Missing inverse-scale tensor 'model.x_scale_inv'")
    if how == "hang":
        print("[worker 1] progress 1/239", flush=True)
        time.sleep(3600)
    if how == "fill":
        with (output / ".tmp-ballast").open("wb") as file:
            for _ in range(64):
                file.write(bytes(1 << 20))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--input-dir", type=Path, required=True)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--dtype", choices=["bfloat16"], required=True)
    parser.add_argument("--num-workers", type=int, default=1)
    args = parser.parse_args()
    if any(args.output_dir.iterdir()):
        raise FileExistsError(f"Output directory is not empty: {args.output_dir}.")
    tensors = read(args.input_dir)
    plain = [name for name in tensors if not name.endswith("_scale_inv")]
    halves = [plain[: len(plain) // 2], plain[len(plain) // 2 :]]
    weight_map = {}
    for number, names in enumerate(halves, 1):
        made = {}
        for name in names:
            scale = tensors.get(f"{name}_scale_inv")
            made[name] = dequantize(tensors[name], scale) if scale else tensors[name]
        write(args.output_dir / f".tmp-model-{number:05d}.safetensors", made)
        print(f"Flushed temporary output shard {number}: {len(made)} tensors", flush=True)
        weight_map |= dict.fromkeys(names, f"model-{number:05d}-of-00002.safetensors")
        misbehave(args.output_dir, os.environ.get("STANDIN", ""))
    for number in (1, 2):
        shard = args.output_dir / f".tmp-model-{number:05d}.safetensors"
        shard.rename(args.output_dir / f"model-{number:05d}-of-00002.safetensors")
    index = {"metadata": {}, "weight_map": weight_map}
    (args.output_dir / "model.safetensors.index.json").write_text(json.dumps(index))
    for path in args.input_dir.iterdir():
        if path.suffix != ".safetensors" and path.name != "model.safetensors.index.json":
            shutil.copy2(path, args.output_dir / path.name)
    print("Conversion completed", flush=True)


if __name__ == "__main__":
    main()
