"""Checkpoints in DeepSeek-V3's layout and with its real shapes, of any size, for benchmarks.

Names and shapes: DeepSeek-V3 README_WEIGHTS.md and config.json; the ragged matrix is
kv_a_proj_with_mqa (576 rows in blocks of 128). One weight's scale lies in the next shard.
"""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np

from flagdeploy.checkpoint.safetensors_file import Header, header_bytes, tensor_bytes

HIDDEN, EXPERT, DENSE, VOCABULARY = 7168, 2048, 18432, 129280
ATTENTION = {
    "q_a_proj": (1536, HIDDEN),
    "q_b_proj": (24576, 1536),
    "kv_a_proj_with_mqa": (576, HIDDEN),
    "kv_b_proj": (32768, 512),
    "o_proj": (HIDDEN, 16384),
}
Tensors = dict[str, tuple[str, tuple[int, ...]]]


def tensors(
    layers: int = 61, experts: int = 256, dense: int = 3, vocabulary: int = VOCABULARY
) -> Tensors:
    """``{name: (dtype, shape)}`` in layer order of a model whose first `dense` layers have no
    experts; the defaults, and the MTP layer that is always there, are DeepSeek-R1."""
    found: Tensors = {"model.embed_tokens.weight": ("BF16", (vocabulary, HIDDEN))}
    for layer in range(layers + 1):
        found |= layer_tensors(f"model.layers.{layer}.", layer < dense, experts)
    mtp = f"model.layers.{layers}."
    found[f"{mtp}eh_proj.weight"] = "BF16", (HIDDEN, 2 * HIDDEN)
    for norm in ("enorm", "hnorm", "shared_head.norm"):
        found[f"{mtp}{norm}.weight"] = "BF16", (HIDDEN,)
    found["model.norm.weight"] = "BF16", (HIDDEN,)
    found["lm_head.weight"] = "BF16", (vocabulary, HIDDEN)
    return found


def of_size(size: float) -> Tensors:
    """A model of about `size` bytes, 550 MB at least: as many experts as it takes."""
    dense = int(size > 1.5e9)
    smallest = _bytes(tensors(dense + 1, 1, dense, 2048))
    each = (_bytes(tensors(dense + 1, 3, dense, 2048)) - smallest) // 2
    return tensors(dense + 1, max(1, round((size - smallest) / each) + 1), dense, 2048)


def _bytes(found: Tensors) -> int:
    return sum(tensor_bytes(*what) for what in found.values())


def layer_tensors(prefix: str, dense: bool, experts: int) -> Tensors:
    found: Tensors = {}
    for norm, size in {
        **{"input_layernorm": HIDDEN, "post_attention_layernorm": HIDDEN},
        **{"self_attn.q_a_layernorm": 1536, "self_attn.kv_a_layernorm": 512},
    }.items():
        found[f"{prefix}{norm}.weight"] = "BF16", (size,)
    matrices = {f"self_attn.{name}": shape for name, shape in ATTENTION.items()}
    if dense:
        matrices |= feed_forward("mlp", DENSE)
    else:
        found[f"{prefix}mlp.gate.weight"] = "BF16", (experts, HIDDEN)
        found[f"{prefix}mlp.gate.e_score_correction_bias"] = "F32", (experts,)
        matrices |= feed_forward("mlp.shared_experts", EXPERT)
        for expert in range(experts):
            matrices |= feed_forward(f"mlp.experts.{expert}", EXPERT)
    for name, (rows, columns) in matrices.items():
        found[f"{prefix}{name}.weight"] = "F8_E4M3", (rows, columns)
        scale = -(-rows // 128), -(-columns // 128)
        found[f"{prefix}{name}.weight_scale_inv"] = "F32", scale
    return found


def feed_forward(name: str, width: int) -> dict[str, tuple[int, int]]:
    up, down = (width, HIDDEN), (HIDDEN, width)
    return {f"{name}.gate_proj": up, f"{name}.up_proj": up, f"{name}.down_proj": down}


def shards(everything: Tensors, count: int) -> Iterator[Tensors]:
    """Cut into `count` shards of about one size; the first one ends between weight and scale,
    where there are scales."""
    total = _bytes(everything)
    number, filled, shard = 1, 0, Tensors()
    scaled = any(name.endswith("_scale_inv") for name in everything)
    for name, what in everything.items():
        between = name.endswith("_scale_inv")
        full = filled >= total * number / count and (number > 1 or between or not scaled)
        if full and number < count:
            yield shard
            number, shard = number + 1, {}
        shard[name] = what
        filled += tensor_bytes(*what)
    yield shard


def write(folder: Path, everything: Tensors, count: int, *, sparse: bool = False) -> int:
    """Write a checkpoint and return its bytes; `sparse` leaves the data to be holes of zeros."""
    folder.mkdir(parents=True)
    chance = np.random.default_rng(0)
    weights = _weights(chance)
    weight_map: dict[str, str] = {}
    total = 0
    cut = list(shards(everything, count))
    for number, shard in enumerate(cut, 1):
        name = f"model-{number:05d}-of-{len(cut):06d}.safetensors"
        head, header = header_bytes(shard)
        with (folder / name).open("wb") as file:
            file.write(head)
            if not sparse:
                _write_data(file.fileno(), header, weights, chance)
            file.truncate(header.file_bytes)
        weight_map |= dict.fromkeys(shard, name)
        total += header.data_bytes
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    layers = max(int(name.split(".")[2]) for name in everything if ".layers." in name)
    quantization = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}
    config = {"num_hidden_layers": layers, "num_nextn_predict_layers": 1}
    config |= {"torch_dtype": "bfloat16", "quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    return total


def _weights(chance: np.random.Generator) -> np.ndarray:
    """64 MB of codes as quantization leaves them: normal, the largest of a block at 448."""
    normal = chance.standard_normal((1 << 19, 128), np.float32)
    normal *= 448 / np.abs(normal).max()
    return normal.astype(ml_dtypes.float8_e4m3fn).view(np.uint8).reshape(-1)


def _write_data(
    descriptor: int, header: Header, weights: np.ndarray, chance: np.random.Generator
) -> None:
    for tensor in header.tensors.values():
        place = header.data_start + tensor.begin
        if tensor.dtype in ("F8_E4M3", "U8"):
            for start in range(0, tensor.nbytes, weights.size // 2):
                size = min(weights.size // 2, tensor.nbytes - start)
                at = int(chance.integers(0, weights.size // 2))
                os.pwrite(descriptor, weights[at : at + size].data, place + start)
            continue
        values = chance.random(math.prod(tensor.shape), np.float32) * np.float32(1e-3)
        if tensor.dtype == "BF16":
            values = values.astype(ml_dtypes.bfloat16)
        os.pwrite(descriptor, values.tobytes(), place)
