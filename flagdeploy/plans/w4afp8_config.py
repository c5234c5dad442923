"""What the files of a W4AFP8 checkpoint say about its numbers, for TensorRT-LLM and for vLLM."""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from flagdeploy.checkpoint.formats import SCALE
from flagdeploy.checkpoint.int4 import GROUP
from flagdeploy.checkpoint.safetensors_file import Tensor
from flagdeploy.plans.mtp import LAYER

HF_QUANT_CONFIG = {
    "quantization": {"quant_algo": "MIXED_PRECISION", "kv_cache_quant_algo": None},
}
_FP8 = {"quant_algo": "FP8_BLOCK_SCALES"}
_INT4 = {"quant_algo": "W4A8_AWQ"}
_ATTENTION = ("fused_a", "q_b_proj", "kv_b_proj", "o_proj")
_MLP = ("gate_up_proj", "down_proj")


def quant_cfg(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], layers: int
) -> dict[str, Any]:
    """quant_cfg.json of TensorRT-LLM's mixed precision, with the model's own numbers of layers.

    Layers whose other weights are BF16 state only their experts; the layers of multi-token
    prediction, which follow the `layers` hidden ones, keep FP8 experts.
    """
    dense = config.get("first_k_dense_replace", 0)
    kinds: defaultdict[int, set[str]] = defaultdict(set)
    for name, tensor in tensors.items():
        if match := LAYER.match(name):
            kinds[int(match[1])].add(tensor.dtype)
    stated: dict[str, Any] = {}
    for layer in sorted(kinds):
        prefix, fp8 = f"model.layers.{layer}", "F8_E4M3" in kinds[layer]
        if fp8:
            stated |= {f"{prefix}.self_attn.{name}": _FP8 for name in _ATTENTION}
            stated |= {f"{prefix}.mlp.shared_experts.{name}": _FP8 for name in _MLP}
        if fp8 and layer < dense:
            stated |= {f"{prefix}.mlp.{name}": _FP8 for name in _MLP}
        elif dense <= layer < layers:
            stated[f"{prefix}.mlp.experts"] = _INT4
        elif fp8:
            stated[f"{prefix}.mlp.experts"] = _FP8
    head = {"quant_algo": "MIXED_PRECISION", "kv_cache_quant_algo": None}
    return head | {"quantized_layers": stated}


def compressed_tensors(
    tensors: Mapping[str, Tensor], experts: Collection[str], block: tuple[int, int] | None
) -> dict[str, Any]:
    """quantization_config of compressed-tensors: INT4 experts with FP8 activations per token, and
    the rest of the matrices in FP8 blocks (where the source has them) or ignored.

    Schema: compressed-tensors, quantization/quant_config.py and its presets W4AFP8 and FP8_BLOCK.
    """
    groups: dict[str, Any] = {
        "group_0": {
            "targets": _targets(experts, tensors),
            "weights": _scheme(4, "int", "group", group_size=GROUP),
            "input_activations": _scheme(8, "float", "token", dynamic=True),
            "output_activations": None,
            "format": "pack-quantized",
        }
    }
    fp8 = [n for n, t in tensors.items() if t.dtype == "F8_E4M3" and n not in experts]
    if block and fp8:
        groups["group_1"] = {
            "targets": _targets(fp8, tensors),
            "weights": _scheme(8, "float", "block", block_structure=list(block)),
            "input_activations": _scheme(8, "float", "group", group_size=block[1], dynamic=True),
            "output_activations": None,
            "format": "float-quantized",
        }
    quantized = {*experts, *fp8}
    plain = [
        name
        for name, tensor in tensors.items()
        if name.endswith(".weight") and len(tensor.shape) == 2 and name not in quantized
    ]
    return {
        "quant_method": "compressed-tensors",
        "format": "mixed-precision" if len(groups) > 1 else "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": _targets(plain, tensors),
        "kv_cache_scheme": None,
    }


def _scheme(
    bits: int, kind: str, strategy: str, *, dynamic: bool = False, **more: Any
) -> dict[str, Any]:
    base = {"num_bits": bits, "type": kind, "strategy": strategy, "symmetric": True}
    return base | {"dynamic": dynamic} | more


def _targets(names: Collection[str], tensors: Mapping[str, Tensor]) -> list[str]:
    """Patterns that match the modules of these weights and of no others in `tensors`."""
    everywhere = _places(name for name in tensors if not name.endswith(SCALE))
    patterns = []
    for module, layers in sorted(_places(names).items()):
        if layers == everywhere[module]:
            patterns.append(f"re:.*{module}$" if None not in layers else f"re:(.*\\.)?{module}$")
        else:
            numbers = "|".join(str(layer) for layer in sorted(layers, key=lambda n: n or 0))
            patterns.append(f"re:.*layers\\.({numbers})\\.(.*\\.)?{module}$")
    return patterns


def _places(names: Any) -> dict[str, set[int | None]]:
    """The layers, by module pattern, in which weights occur; None outside of layers."""
    places: defaultdict[str, set[int | None]] = defaultdict(set)
    for name in names:
        if not name.endswith(".weight"):
            continue
        match = LAYER.match(name)
        module = name.removesuffix(".weight")[match.end() if match else 0 :]
        pattern = re.sub(r"\\\.\d+\\\.", r"\\.\\d+\\.", re.escape(module))
        places[pattern].add(int(match[1]) if match else None)
    return places
