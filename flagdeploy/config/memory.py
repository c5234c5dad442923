"""Parameters, bytes and devices by formula: does this model fit on these chips?

Counts follow the published definitions of DeepSeek-V3 (arXiv:2412.19437, modeling_deepseek.py) and
gpt-oss (arXiv:2508.10925). The rule for the smallest number of devices reproduces the hardware
table of TensorRT-LLM's DeepSeek guide.
"""

from dataclasses import dataclass

from flagdeploy.config.chip import Chip
from flagdeploy.config.schema import Architecture, Deployment

GIB = 2**30
USABLE = 0.90
"""Share of a device's memory that weights may take; the rest is KV cache and activations."""
WORKSPACE_GIB = 6.0
"""Activations, CUDA graphs and communication buffers of one device, as engines need them."""

# Bytes of one parameter of a matrix in each part, with its scales:
# FP8 has one F32 scale per 128x128 block, W4A8 one BF16 scale per 128 values (in memory),
# NVFP4 one E4M3 scale per 16 values, MXFP4 one E8M0 scale per 32 values.
_FP8 = 1 + 4 / 128**2
_BYTES = {
    "fp8": {"attention": _FP8, "mlp": _FP8, "experts": _FP8},
    "w4a8": {"attention": _FP8, "mlp": _FP8, "experts": 4 / 8 + 2 / 128},
    "nvfp4": {"attention": 2.0, "mlp": 4.5 / 8, "experts": 4.5 / 8},
    "mxfp4": {"attention": 2.0, "mlp": 2.0, "experts": 4.25 / 8},
    "bf16": {"attention": 2.0, "mlp": 2.0, "experts": 2.0},
    "fp16": {"attention": 2.0, "mlp": 2.0, "experts": 2.0},
    "fp32": {"attention": 4.0, "mlp": 4.0, "experts": 4.0},
}


@dataclass(frozen=True)
class Parameters:
    """Parameters of the main model (without MTP layers) by part."""

    attention: int
    """Matrices of all attention layers."""
    mlp: int
    """Matrices of dense MLPs and shared experts."""
    experts: int
    """Matrices of routed experts."""
    plain: int
    """Never quantized: embeddings, head, norms, biases, routers."""

    @property
    def total(self) -> int:
        return self.attention + self.mlp + self.experts + self.plain


def parameters(architecture: Architecture) -> Parameters:
    """Parameters of the main model."""
    return (
        _gpt_oss(architecture) if architecture.model_type == "gpt_oss" else _deepseek(architecture)
    )


def _deepseek(a: Architecture) -> Parameters:
    head, rope = a.qk_nope_head_dim + a.qk_rope_head_dim, a.qk_rope_head_dim
    queries = a.num_attention_heads * head
    query = (
        a.hidden_size * a.q_lora_rank + a.q_lora_rank * queries
        if a.q_lora_rank
        else a.hidden_size * queries
    )
    key_value = a.hidden_size * (a.kv_lora_rank + rope)
    key_value += a.kv_lora_rank * a.num_attention_heads * (a.qk_nope_head_dim + a.v_head_dim)
    output = a.num_attention_heads * a.v_head_dim * a.hidden_size
    norms = 2 * a.hidden_size + a.q_lora_rank + a.kv_lora_rank
    layers, sparse = a.num_hidden_layers, a.num_hidden_layers - a.first_k_dense_replace
    expert = 3 * a.hidden_size * a.moe_intermediate_size
    dense = 3 * a.hidden_size * a.intermediate_size
    router = a.n_routed_experts * (a.hidden_size + 1)
    return Parameters(
        attention=layers * (query + key_value + output),
        mlp=a.first_k_dense_replace * dense + sparse * a.n_shared_experts * expert,
        experts=sparse * a.n_routed_experts * expert,
        plain=layers * norms + sparse * router + (2 * a.vocab_size + 1) * a.hidden_size,
    )


def _gpt_oss(a: Architecture) -> Parameters:
    queries, keys = a.num_attention_heads * a.head_dim, a.num_key_value_heads * a.head_dim
    experts, inter = a.n_routed_experts, a.moe_intermediate_size
    biases = queries + 2 * keys + a.hidden_size + a.num_attention_heads  # the last are the sinks
    expert_biases = experts * (2 * inter + a.hidden_size)
    router = experts * (a.hidden_size + 1)
    layer = biases + expert_biases + router + 2 * a.hidden_size
    return Parameters(
        attention=a.num_hidden_layers * a.hidden_size * (2 * queries + 2 * keys),
        mlp=0,
        experts=a.num_hidden_layers * experts * 3 * a.hidden_size * inter,
        plain=a.num_hidden_layers * layer + (2 * a.vocab_size + 1) * a.hidden_size,
    )


def weight_bytes(architecture: Architecture, precision: str) -> float:
    """Bytes of the main model's weights in device memory, all devices together."""
    count = parameters(architecture)
    return _replicated_bytes(count, precision) + _expert_bytes(count, precision)


def _replicated_bytes(count: Parameters, precision: str) -> float:
    """Everything but the routed experts."""
    size = _BYTES[precision]
    plain = 4.0 if precision == "fp32" else 2.0
    return count.attention * size["attention"] + count.mlp * size["mlp"] + count.plain * plain


def _expert_bytes(count: Parameters, precision: str) -> float:
    return count.experts * _BYTES[precision]["experts"]


def kv_bytes_per_token(architecture: Architecture, dtype: str = "bf16") -> int:
    """Bytes of the KV cache for one token over all layers that keep every token.

    MLA keeps one latent for all heads. Every second layer of gpt-oss sees a window of 128 tokens
    only, so its cache does not grow.
    """
    a, layers = architecture, architecture.num_hidden_layers
    if a.kv_lora_rank:
        elements = a.kv_lora_rank + a.qk_rope_head_dim
    else:
        elements = 2 * a.num_key_value_heads * a.head_dim
    if a.model_type == "gpt_oss":
        layers //= 2
    return layers * elements * (1 if dtype == "fp8" else 2)


def minimum_devices(architecture: Architecture, precision: str, chip: Chip) -> int | None:
    """The smallest power of two of devices that hold the weights; None when the chip cannot.

    The weights of one device may take `USABLE` of its memory.
    """
    if precision not in chip.precisions or chip.memory_gib is None:
        return None
    weights, count = weight_bytes(architecture, precision) / GIB, 1
    while weights / count > USABLE * chip.memory_gib:
        count *= 2
    return count


def device_weights_gib(deployment: Deployment) -> float:
    """GiB of weights on each device, under the deployment's parallelism.

    With attention data parallelism every device of a pipeline stage holds all of the attention,
    the dense MLPs and the embeddings, and its share of the experts.
    """
    model, parallel = deployment.model, deployment.parallel
    count = parameters(model.architecture)
    spread = parallel.tensor * parallel.pipeline
    replicated_over = parallel.pipeline if parallel.attention_data else spread
    experts_over = max(spread, parallel.expert * parallel.pipeline)
    replicated = _replicated_bytes(count, model.precision) / replicated_over
    return (replicated + _expert_bytes(count, model.precision) / experts_over) / GIB


def kv_tokens(deployment: Deployment, chip: Chip) -> int | None:
    """Tokens that the KV cache of one device holds beside the weights; None when unknown.

    MLA's latent is the same on every device of a tensor-parallel group; pipeline stages hold
    their own layers only, key-value heads are divided where there are several.
    """
    architecture, parallel = deployment.model.architecture, deployment.parallel
    if chip.memory_gib is None or chip.converts or not architecture.num_hidden_layers:
        return None
    free = USABLE * chip.memory_gib - device_weights_gib(deployment) - WORKSPACE_GIB
    per_token = kv_bytes_per_token(architecture, deployment.kv_cache.dtype) / parallel.pipeline
    if not per_token:
        return None  # the dimensions of the attention are not given
    if not architecture.kv_lora_rank and not parallel.attention_data:
        per_token /= min(parallel.tensor, architecture.num_key_value_heads)
    return max(0, int(free * GIB / per_token))
