"""DeepSeek-V3's FP8 storage: E4M3 weights in blocks of 128x128 with F32 `weight_scale_inv`.

The layout is that of deepseek-ai/DeepSeek-V3 README_WEIGHTS.md: a block's weight is its FP8 value
times `weight_scale_inv` of that block; ragged blocks are padded with zeros to find the scale, and
the padding is dropped.
"""

import json
import re
import shutil
from pathlib import Path

import torch
import torch.nn.functional as F
from architecture import CONFIG, GENERATION_CONFIG
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

BLOCK = 128
FP8_MAX = 448.0
SHARDS = 5
# Its scale is stored one shard later, as happens in the original (layer 39, expert 92 there).
CROSS_SHARD = "model.layers.1.mlp.experts.7.down_proj.weight"

QUANTIZED = re.compile(
    r"model\.layers\.\d+\."
    r"(self_attn\.(q_a_proj|q_b_proj|kv_a_proj_with_mqa|kv_b_proj|o_proj)"
    r"|mlp\.((shared_experts|experts\.\d+)\.)?(gate|up|down)_proj)\.weight"
)


def to_blocks(weight: Tensor) -> Tensor:
    """[out, in] -> zero-padded view [ceil(out/128), 128, ceil(in/128), 128]."""
    rows, columns = weight.shape
    padded = F.pad(weight, (0, -columns % BLOCK, 0, -rows % BLOCK))
    return padded.reshape(padded.shape[0] // BLOCK, BLOCK, padded.shape[1] // BLOCK, BLOCK)


def from_blocks(blocks: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `to_blocks`: [R, 128, C, 128] -> [out, in] without the padding."""
    rows, columns = blocks.shape[0] * BLOCK, blocks.shape[2] * BLOCK
    return blocks.reshape(rows, columns)[: shape[0], : shape[1]].contiguous()


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """[out, in], any float dtype -> (F8_E4M3 [out, in], F32 [ceil(out/128), ceil(in/128)])."""
    blocks = to_blocks(weight.float())
    largest = blocks.abs().amax(dim=(1, 3))
    scale = torch.where(largest > 0, largest / FP8_MAX, torch.ones_like(largest))
    stored = (blocks / scale[:, None, :, None]).clamp(-FP8_MAX, FP8_MAX)
    return from_blocks(stored, weight.shape).to(torch.float8_e4m3fn), scale


def dequantize(weight: Tensor, scale: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """The inverse of `quantize`: multiply in FP32, round once to `dtype`."""
    blocks = to_blocks(weight.float()) * scale[:, None, :, None]
    return from_blocks(blocks, weight.shape).to(dtype)


def deepseek_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A transformers state dict -> DeepSeek's names, with each expert's gate, up and down apart."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith(".experts.gate_up_proj"):
            for e, fused in enumerate(tensor):
                gate, up = fused.chunk(2)
                renamed[name.replace("gate_up_proj", f"{e}.gate_proj.weight")] = gate
                renamed[name.replace("gate_up_proj", f"{e}.up_proj.weight")] = up
        elif name.endswith(".experts.down_proj"):
            for e, down in enumerate(tensor):
                renamed[name.replace("down_proj", f"{e}.down_proj.weight")] = down
        else:
            renamed[name] = tensor
    return renamed


def natural(name: str) -> list[str | int]:
    """Sort key that counts experts and layers as numbers; the embedding comes first."""
    keyed = name.replace("model.embed_tokens", "")
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", keyed)]


def quantized_tensors(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under DeepSeek's names, any float dtype -> the FP8 checkpoint's tensors, in order."""
    stored: dict[str, Tensor] = {}
    for name in sorted(weights, key=natural):
        tensor = weights[name].detach().cpu()
        if QUANTIZED.fullmatch(name):
            stored[name], stored[name + "_scale_inv"] = quantize(tensor)
        elif name.endswith("e_score_correction_bias"):
            stored[name] = tensor.float().contiguous()
        else:
            stored[name] = tensor.to(torch.bfloat16).contiguous()
    return stored


def assign_shards(tensors: dict[str, Tensor]) -> dict[str, int]:
    """Tensor name -> shard 0..SHARDS-1, equal in size; weight and scale together, but one."""
    total = sum(t.nbytes for t in tensors.values())
    shard_of: dict[str, int] = {}
    done = 0
    for name, tensor in tensors.items():
        if name.endswith("_scale_inv"):
            shard_of[name] = shard_of[name.removesuffix("_scale_inv")]
        else:
            shard_of[name] = min(SHARDS - 1, done * SHARDS // total)
        done += tensor.nbytes
    shard_of[CROSS_SHARD + "_scale_inv"] = shard_of[CROSS_SHARD] + 1
    return shard_of


def write_shards(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Write model-0000k-of-0000n.safetensors and model.safetensors.index.json."""
    shard_of = assign_shards(tensors)
    files = [f"model-{i + 1:05d}-of-{SHARDS:05d}.safetensors" for i in range(SHARDS)]
    for i, file in enumerate(files):
        part = {name: t for name, t in tensors.items() if shard_of[name] == i}
        save_file(part, folder / file, metadata={"format": "pt"})
    index = {
        "metadata": {"total_size": sum(t.nbytes for t in tensors.values())},
        "weight_map": {name: files[shard_of[name]] for name in sorted(tensors)},
    }
    write_json(folder / "model.safetensors.index.json", index)


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def write_checkpoint(folder: Path, weights: dict[str, Tensor]) -> None:
    """Write the whole FP8 checkpoint: shards, index, configs and tokenizer."""
    from make_tokenizer import write_tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    write_shards(folder, quantized_tensors(weights))
    write_json(folder / "config.json", CONFIG)
    write_json(folder / "generation_config.json", GENERATION_CONFIG)
    write_tokenizer(folder)


def read_weights(folder: Path, dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    """The checkpoint's weights, FP8 ones dequantized to `dtype`, the rest as stored."""
    weight_map = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    stored: dict[str, Tensor] = {}
    for file in sorted(set(weight_map.values())):
        with safe_open(folder / file, framework="pt") as shard:
            stored |= {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118
    return {
        name: dequantize(t, stored[name + "_scale_inv"], dtype)
        if name + "_scale_inv" in stored
        else t
        for name, t in stored.items()
        if not name.endswith("_scale_inv")
    }


def write_dequantized(source: Path, target: Path) -> None:
    """Write the BF16 copy of an FP8 checkpoint as one shard: a plain reference for converters."""
    target.mkdir(parents=True, exist_ok=True)
    save_file(read_weights(source), target / "model.safetensors", metadata={"format": "pt"})
    write_json(
        target / "config.json", {k: v for k, v in CONFIG.items() if k != "quantization_config"}
    )
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, target / name)
