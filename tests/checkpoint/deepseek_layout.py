"""Small checkpoints of random weights in the layout of DeepSeek-V3, written by safetensors."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file

INDEX = "model.safetensors.index.json"
MATRICES = {
    "self_attn.q_a_proj": (256, 200),
    "self_attn.kv_a_proj_with_mqa": (192, 200),
    "self_attn.o_proj": (200, 384),
    "mlp.experts.0.gate_proj": (128, 200),
    "mlp.experts.0.down_proj": (200, 128),
    "mlp.experts.1.gate_proj": (1, 1),
}


@dataclass
class Layout:
    """Tensors by shard; tests change them and then write."""

    shards: dict[str, dict[str, torch.Tensor]]
    config: dict[str, object] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        weight_map = {}
        for shard, tensors in self.shards.items():
            save_file(tensors, folder / shard, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(tensors, shard)
        total = sum(t.numel() * t.element_size() for s in self.shards.values() for t in s.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index))
        (folder / "config.json").write_text(json.dumps(self.config))
        (folder / "tokenizer.json").write_text("{}")
        (folder / "generation_config.json").write_text('{"temperature": 0.6}')
        return folder

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: tensor for shard in self.shards.values() for name, tensor in shard.items()}


def deepseek(layers: int = 2, seed: int = 0, scale_dtype: torch.dtype = torch.float32) -> Layout:
    """`layers` hidden layers and one MTP layer, a shard each; layer 0's first scale lies in the
    second shard."""
    torch.manual_seed(seed)
    names = [f"model-{i + 1:05d}-of-{layers + 1:06d}.safetensors" for i in range(layers + 1)]
    shards: dict[str, dict[str, torch.Tensor]] = {}
    for layer, shard in enumerate(names):
        shards[shard] = layer_tensors(layer, scale_dtype)
    shards[names[0]]["model.embed_tokens.weight"] = torch.randn(64, 200).bfloat16()
    shards[names[-1]][f"model.layers.{layers}.eh_proj.weight"] = torch.randn(200, 400).bfloat16()
    moved = "model.layers.0.self_attn.q_a_proj.weight_scale_inv"
    shards[names[1]][moved] = shards[names[0]].pop(moved)
    config = {
        "architectures": ["DeepseekV3ForCausalLM"],
        "num_hidden_layers": layers,
        "num_nextn_predict_layers": 1,
        "torch_dtype": "bfloat16",
        "quantization_config": {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "quant_method": "fp8",
            "weight_block_size": [128, 128],
        },
        "vocab_size": 64,
    }
    return Layout(shards, config)


def layer_tensors(layer: int, scale_dtype: torch.dtype) -> dict[str, torch.Tensor]:
    prefix = f"model.layers.{layer}."
    tensors = {
        f"{prefix}input_layernorm.weight": torch.randn(200).bfloat16(),
        f"{prefix}mlp.gate.e_score_correction_bias": torch.randn(2),
    }
    for name, (rows, columns) in MATRICES.items():
        weight = (torch.randn(rows, columns) * 100).to(torch.float8_e4m3fn)
        shape = -(-rows // 128), -(-columns // 128)
        if scale_dtype == torch.float8_e8m0fnu:
            scale = torch.randint(100, 140, shape, dtype=torch.uint8).view(scale_dtype)
        else:
            scale = (torch.rand(shape) * 1e-3).to(scale_dtype)
        tensors[f"{prefix}{name}.weight"] = weight
        tensors[f"{prefix}{name}.weight_scale_inv"] = scale
    return tensors


def dequantized(layout: Layout, to: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    """What the published algorithm makes of it: FP32 product with expanded scales, then a cast."""
    tensors = layout.tensors
    result = {}
    for name, tensor in tensors.items():
        if name.endswith("_scale_inv"):
            continue
        if tensor.dtype == torch.float8_e4m3fn:
            scale = tensors[f"{name}_scale_inv"].float()
            full = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)
            tensor = (tensor.float() * full[: tensor.shape[0], : tensor.shape[1]]).to(to)
        result[name] = tensor
    return result
