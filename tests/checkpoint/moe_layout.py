"""A small mixture of experts with DeepSeek-V3's names: a dense layer, experts, an MTP layer."""

import torch

from checkpoint.deepseek_layout import Layout

HIDDEN, INTER, EXPERTS = 256, 128, 3
LAYERS, DENSE = 4, 1
ATTENTION = {
    "q_a_proj": (128, HIDDEN),
    "q_b_proj": (256, 128),
    "kv_a_proj_with_mqa": (192, HIDDEN),
    "kv_b_proj": (256, 128),
    "o_proj": (HIDDEN, 256),
}
FP8_CONFIG = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": [128, 128],
}


def mlp(inter: int) -> dict[str, tuple[int, int]]:
    return {
        "gate_proj": (inter, HIDDEN),
        "up_proj": (inter, HIDDEN),
        "down_proj": (HIDDEN, inter),
    }


def matrices() -> dict[str, tuple[int, int]]:
    """Modules with weights in FP8, and their shapes."""
    shapes = {}
    for layer in range(LAYERS + 1):
        prefix = f"model.layers.{layer}."
        shapes |= {f"{prefix}self_attn.{name}": shape for name, shape in ATTENTION.items()}
        blocks = {"mlp": 384} if layer < DENSE else {"mlp.shared_experts": INTER}
        if layer >= DENSE:
            blocks |= {f"mlp.experts.{expert}": INTER for expert in range(EXPERTS)}
        for block, inter in blocks.items():
            shapes |= {f"{prefix}{block}.{name}": shape for name, shape in mlp(inter).items()}
    return shapes


def experts(mtp: bool = False) -> list[str]:
    """Names of the routed experts' weights."""
    last = LAYERS + mtp
    return [
        f"{name}.weight"
        for name in matrices()
        if ".mlp.experts." in name and int(name.split(".")[2]) < last
    ]


def mixture(fp8: bool = True, seed: int = 0) -> Layout:
    """Random weights in FP8 blocks or BF16, two shards per layer with scales in the other one."""
    torch.manual_seed(seed)
    shards = 2 * (LAYERS + 1)
    names = [f"model-{i + 1:05d}-of-{shards:06d}.safetensors" for i in range(shards)]
    content: dict[str, dict[str, torch.Tensor]] = {name: {} for name in names}
    for count, (module, shape) in enumerate(matrices().items()):
        layer = int(module.split(".")[2])
        weight = torch.randn(shape)
        if fp8:
            scale = torch.rand(-(-shape[0] // 128), -(-shape[1] // 128)) * 1e-3
            other = names[2 * layer + (count + 1) % 2]
            content[other][f"{module}.weight_scale_inv"] = scale
            weight = (weight * 100).to(torch.float8_e4m3fn)
        else:
            weight = (weight / 16).bfloat16()
        content[names[2 * layer + count % 2]][f"{module}.weight"] = weight
    for layer in range(LAYERS + 1):
        prefix = f"model.layers.{layer}."
        shard = content[names[2 * layer]]
        shard[f"{prefix}input_layernorm.weight"] = torch.randn(HIDDEN).bfloat16()
        if layer >= DENSE:
            shard[f"{prefix}mlp.gate.weight"] = torch.randn(EXPERTS, HIDDEN).bfloat16()
            shard[f"{prefix}mlp.gate.e_score_correction_bias"] = torch.randn(EXPERTS)
    content[names[-1]][f"model.layers.{LAYERS}.eh_proj.weight"] = torch.randn(
        HIDDEN, 2 * HIDDEN
    ).bfloat16()
    content[names[0]]["model.embed_tokens.weight"] = torch.randn(64, HIDDEN).bfloat16()
    content[names[0]]["lm_head.weight"] = torch.randn(64, HIDDEN).bfloat16()
    config: dict[str, object] = {
        "architectures": ["DeepseekV3ForCausalLM"],
        "first_k_dense_replace": DENSE,
        "num_hidden_layers": LAYERS,
        "num_nextn_predict_layers": 1,
        "torch_dtype": "bfloat16",
    }
    return Layout(content, config | ({"quantization_config": FP8_CONFIG} if fp8 else {}))


def act_scales() -> dict[str, torch.Tensor]:
    """Scales as calibration gives them: w1 and w3 of an expert are equal."""
    scales = {}
    for layer in range(DENSE, LAYERS):
        for expert in range(EXPERTS):
            prefix = f"model.layers.{layer}.mlp.experts.{expert}"
            inner, outer = torch.rand(2).add(0.01).split(1)
            for number, value in ((1, inner), (2, outer), (3, inner)):
                scales[f"{prefix}.w{number}.input_scale"] = value.clone()
    return scales
