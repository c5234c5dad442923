"""Stands in for TensorRT-LLM's script of this name: its command line, files and defects.

Experts of the right names, shapes and dtypes, all zero. Like the original it numbers shards from
zero, names the MTP layer in the index without writing it, and writes the activation scales into
the first shard besides copying their file, which the index names.
"""

import argparse
import json
import os
import shutil
from pathlib import Path

from safetensors_lite import Tensor, read, write

parser = argparse.ArgumentParser()
parser.add_argument("--model_dir", type=Path, required=True)
parser.add_argument("--output_dir", type=Path, required=True)
parser.add_argument("--act_scales", type=Path, required=True)
parser.add_argument("--parts", type=int, default=1)
parser.add_argument("--rank", type=int, default=0)
args = parser.parse_args()

if os.environ.get("STANDIN") == f"raise {args.rank}":
    raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
config = json.loads((args.model_dir / "config.json").read_text())
part_layers = -(-config["num_hidden_layers"] // args.parts)


def layer(name: str) -> int | None:
    parts = name.split(".")
    return int(parts[2]) if len(parts) > 2 and parts[2].isdigit() else None


def file_of(number: int) -> str:
    return f"model-{number // part_layers:05d}-of-{args.parts:05d}.safetensors"


def expert(weight: Tensor) -> tuple[Tensor, Tensor]:
    rows, columns = weight[1]
    packed = ("I8", [rows, columns // 2], bytes(rows * columns // 2))
    return packed, ("F32", [rows, columns // 128], bytes(rows * columns // 128 * 4))


made: dict[str, Tensor] = {}
weight_map = {}
first = args.rank * part_layers
last = min(config["num_hidden_layers"], first + part_layers)
for name, tensor in read(args.model_dir).items():
    number = layer(name)
    weight_map[name] = file_of(number or 0)
    mine = args.rank == 0 if number is None else first <= number < last
    if not mine or ("mlp.experts" in name and name.endswith("_scale_inv")):
        continue
    if "mlp.experts" in name:
        made[name], made[f"{name}_scale_inv"] = expert(tensor)
    else:
        made[name] = tensor
if args.rank == 0:
    data = args.act_scales.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    for name, entry in json.loads(data[8:start]).items():
        begin, end = entry["data_offsets"]
        made[name] = (entry["dtype"], entry["shape"], data[start + begin : start + end])
        weight_map[name] = args.act_scales.name
    shutil.copy(args.act_scales, args.output_dir)
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(args.model_dir / name, args.output_dir)
    index = {"weight_map": weight_map, "metadata": {}}
    (args.output_dir / "model.safetensors.index.json").write_text(json.dumps(index))
    del config["quantization_config"]
    (args.output_dir / "config.json").write_text(json.dumps(config))
    algorithm = {"quant_algo": "MIXED_PRECISION", "kv_cache_quant_algo": None}
    (args.output_dir / "quant_cfg.json").write_text(
        json.dumps(algorithm | {"quantized_layers": {}})
    )
    (args.output_dir / "hf_quant_config.json").write_text(json.dumps({"quantization": algorithm}))
print(f"saving to {file_of(first)}...", flush=True)
write(args.output_dir / file_of(first), made)
