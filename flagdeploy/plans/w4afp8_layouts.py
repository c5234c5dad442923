"""The two layouts of W4AFP8: which shard a tensor goes to and what becomes of it there.

``trtllm`` is that of TensorRT-LLM's examples/quantization/quantize_mixed_precision_moe.py, which
SGLang reads too: shards of `parts` numbered from zero, ``weight`` I8 [out, in/2],
``weight_scale_inv`` F32 [out, in/128], activation scales in a file of their own. ``vllm`` is
compressed-tensors' pack-quantized: ``weight_packed`` I32 [out, in/8], ``weight_scale`` BF16
[out, in/128], ``weight_shape`` I64 [2].
"""

import struct
from collections.abc import Collection, Mapping

from flagdeploy.checkpoint.formats import SCALE
from flagdeploy.checkpoint.int4 import GROUP
from flagdeploy.checkpoint.quantize_jobs import QuantizeInt4
from flagdeploy.plans.mtp import LAYER
from flagdeploy.plans.problems import refuse_all
from flagdeploy.plans.recipes import Recipe, Source, constant

_VLLM_SCALES = ("F32", "BF16")


def trtllm_shards(source: Source, layers: int, parts: int) -> dict[str, list[str]]:
    """Equal numbers of layers per part; what belongs to no layer is in the first, MTP in the last.

    There are fewer than `parts` when the layers are used up before.
    """
    each = -(-layers // parts)
    count = -(-layers // each)
    shards: dict[str, list[str]] = {}
    for name in source.tensors:
        match = LAYER.match(name)
        part = min(int(match[1]) // each, count - 1) if match else 0
        shards.setdefault(f"model-{part:05d}-of-{count:05d}.safetensors", []).append(name)
    return shards


def for_trtllm(
    source: Source,
    experts: Collection[str],
    block: tuple[int, int] | None,
    act_scales: Mapping[str, float],
    name: str,
) -> list[Recipe]:
    """What becomes of a tensor, or of the name of an activation scale."""
    if name in act_scales:
        return [constant(name, "F32", (1,), struct.pack("<f", act_scales[name]))]
    if name in experts:
        rows, columns = source.tensors[name].shape
        scale = name + SCALE
        outputs = {name: ("I8", (rows, columns // 2)), scale: ("F32", (rows, columns // GROUP))}
        return [_quantized(source, name, block, "trtllm", outputs)]
    return [] if name.removesuffix(SCALE) in experts else [source.copied(name)]


def for_vllm(
    source: Source, experts: Collection[str], block: tuple[int, int] | None, name: str
) -> list[Recipe]:
    """What becomes of a tensor; scales of FP8 get the name that compressed-tensors gives them."""
    weight = name.removesuffix(SCALE)
    if name in experts:
        rows, columns = source.tensors[name].shape
        outputs = {
            f"{name}_packed": ("I32", (rows, columns // 8)),
            f"{name}_scale": ("BF16", (rows, columns // GROUP)),
        }
        return [
            _quantized(source, name, block, "vllm", outputs),
            constant(f"{name}_shape", "I64", (2,), struct.pack("<2q", rows, columns)),
        ]
    if weight in experts:
        return []
    return [source.copied(name, name if name == weight else f"{weight}_scale")]


def _quantized(
    source: Source,
    name: str,
    block: tuple[int, int] | None,
    layout: str,
    outputs: Mapping[str, tuple[str, tuple[int, ...]]],
) -> Recipe:
    weight, scale = outputs
    rows, columns = source.tensors[name].shape

    def make(at: Mapping[str, int]) -> QuantizeInt4:
        values = source.values(name, block)
        return QuantizeInt4(name, values, (rows, columns), layout, at[weight], at[scale])

    return Recipe(outputs, make)


def check_vllm_scales(source: Source) -> None:
    """Raise CheckpointError when FP8 blocks have scales that vLLM does not read."""
    odd = [
        f"{name}: {tensor.dtype}"
        for name, tensor in source.tensors.items()
        if name.endswith(SCALE) and tensor.dtype not in _VLLM_SCALES
    ]
    what = f"scales of FP8 blocks that are not {' or '.join(_VLLM_SCALES)}"
    refuse_all(source.checkpoint, what, odd, "convert to bf16 first, then to w4afp8")
