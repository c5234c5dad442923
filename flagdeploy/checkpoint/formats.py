"""Which number format a checkpoint is stored in, told from its config and headers alone."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from flagdeploy.checkpoint.safetensors_file import Tensor

SCALE = "_scale_inv"
SCALE_DTYPES = ("F32", "BF16", "F8_E8M0", "U8")
_PLAIN = {"BF16": "bf16", "F16": "fp16", "F32": "fp32"}
_TITLES = {
    "fp8-block": "FP8 e4m3 in scaled blocks (DeepSeek V3, R1, V3.1, V3.2)",
    "bf16": "BF16",
    "fp16": "FP16",
    "fp32": "FP32",
    "nvfp4": "NVFP4 (two e2m1 per byte, FP8 scale per 16)",
    "mxfp4": "MXFP4 (two e2m1 per byte, e8m0 scale per 32)",
    "w4afp8": "W4AFP8 (INT4 experts, TensorRT-LLM's mixed precision)",
    "fp8-tensor": "FP8 with one scale per tensor or channel",
    "fp8-e5m2": "FP8 e5m2",
    "fp8-e8m0": "FP8 with ue8m0 `.scale` tensors (DeepSeek V4)",
    "fp8-unscaled": "FP8 without any scale",
}


@dataclass(frozen=True)
class Format:
    """`name` is a stable word (``fp8-block``, ``nvfp4``, ``compressed-tensors pack-quantized``);
    `block` is (rows, columns) that share a scale, for ``fp8-block`` only."""

    name: str
    block: tuple[int, int] | None = None

    def __str__(self) -> str:
        return _TITLES.get(self.name, self.name)

    @property
    def plain(self) -> bool:
        """True when weights are stored as they are, without quantization."""
        return self.name in _PLAIN.values()


def recognise(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Format:
    """Recognise the format of a checkpoint's tensors (all shards together).

    What is stored decides; config.json is asked only where the tensors leave a choice. Layouts:
    DeepSeek-V3 README_WEIGHTS.md, NVIDIA Model-Optimizer's unified export, openai/gpt-oss
    weights.py, compressed-tensors' and AutoAWQ's/GPTQ's tensor names.
    """
    quantization = config.get("quantization_config") or {}
    if not isinstance(quantization, Mapping):
        quantization = {}
    suffixes = {name.rpartition(".")[2] for name in tensors}
    dtypes = Counter(map(attrgetter("dtype"), tensors.values()))
    named = _by_names(quantization, suffixes, tensors, dtypes)
    if named:
        return Format(named)
    if dtypes["F8_E4M3"]:
        return _fp8(quantization, suffixes, tensors)
    if dtypes["F8_E5M2"]:
        return Format("fp8-e5m2")
    plain = {dtype: dtypes[dtype] for dtype in _PLAIN if dtypes[dtype]}
    if plain and dtypes.total() - dtypes["I64"] - dtypes["I32"] == sum(plain.values()):
        return Format(_PLAIN[max(plain, key=lambda dtype: plain[dtype])])
    return Format(str(quantization.get("quant_method") or "+".join(sorted(dtypes))))


def _by_names(
    quantization: Mapping[str, Any],
    suffixes: set[str],
    tensors: Mapping[str, Tensor],
    dtypes: Counter[str],
) -> str | None:
    method = str(quantization.get("quant_method", ""))
    if any(suffix.endswith("_blocks") for suffix in suffixes) or method == "mxfp4":
        return "mxfp4"
    if "weight_scale_2" in suffixes or "weight_global_scale" in suffixes:
        return "nvfp4"
    if "qweight" in suffixes:
        return method or "gptq or awq"
    if method == "compressed-tensors":
        return f"compressed-tensors {quantization.get('format', '')}".strip()
    if not dtypes["I8"]:
        return None
    packed = (t for t in tensors.values() if t.dtype == "I8" and t.name + SCALE in tensors)
    return "w4afp8" if any(packed) else None


def _fp8(
    quantization: Mapping[str, Any], suffixes: set[str], tensors: Mapping[str, Tensor]
) -> Format:
    if "weight" + SCALE in suffixes:
        return Format("fp8-block", _block(quantization))
    if any(tensor.dtype == "F8_E8M0" for tensor in tensors.values()):
        return Format("fp8-e8m0")
    return Format("fp8-tensor" if "weight_scale" in suffixes else "fp8-unscaled")


def _block(quantization: Mapping[str, Any]) -> tuple[int, int]:
    block = quantization.get("weight_block_size")
    if isinstance(block, list) and len(block) == 2 and all(type(n) is int and n > 0 for n in block):
        return block[0], block[1]
    return 128, 128
