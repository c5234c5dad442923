"""Plan compressed-tensors' W4AFP8, as plans/w4afp8.py writes it for vLLM, back to plain numbers.

``X.weight_packed`` I32 [out, in/8] of q + 8, ``X.weight_scale`` BF16 [out, in/128] and
``X.weight_shape`` become ``X.weight``, as does an FP8 ``X.weight`` with its ``X.weight_scale``
[out/128, in/128]. Schema: compressed-tensors, quantization/quant_args.py.
"""

from collections.abc import Mapping
from typing import Any

from flagdeploy.checkpoint.formats import Format
from flagdeploy.checkpoint.fp8 import TARGETS
from flagdeploy.checkpoint.int4 import GROUP
from flagdeploy.checkpoint.jobs import Dequantize
from flagdeploy.checkpoint.quantize_jobs import DecodeInt4
from flagdeploy.checkpoint.safetensors_file import Tensor
from flagdeploy.checkpoint.verify import Verification
from flagdeploy.plans.assembly import assemble
from flagdeploy.plans.conversion_plan import ConversionPlan
from flagdeploy.plans.mtp import without_mtp
from flagdeploy.plans.pairs import MISMATCH, MISMATCH_HINT
from flagdeploy.plans.plain_config import plain_config, plain_note
from flagdeploy.plans.problems import refuse_all
from flagdeploy.plans.recipes import Recipe, Source, all_tensors

FORMATS = ("compressed-tensors pack-quantized", "compressed-tensors mixed-precision")
_PACKED, _SCALE, _SHAPE = "_packed", "_scale", "_shape"
_BLOCK = (128, 128)
_INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": GROUP}
_FP8 = {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": list(_BLOCK)}
_INT4_SCALES: tuple[str, ...] = ("BF16",)
_FP8_SCALES = ("F32", "BF16")


def plan_compressed_tensors(
    checkpoint: Verification,
    files: Mapping[str, int],
    found: Format,
    to: str,
    *,
    drop_mtp: bool = False,
) -> ConversionPlan:
    """Plan the decoding of one of FORMATS; shards keep their names.

    Raises CheckpointError naming every scheme of the config besides symmetric INT4 in groups of 128
    and FP8 in blocks of 128 x 128, and every tensor without fitting scales.
    """
    what = "weights that cannot be decoded"
    hint = f"dequant reads symmetric INT4 in groups of {GROUP} and FP8 in blocks of 128 x 128"
    refuse_all(checkpoint, what, _odd_schemes(checkpoint.config), hint)
    tensors = all_tensors(checkpoint)
    problems = [p for name in sorted(tensors) if (p := _problem(tensors, name))]
    refuse_all(checkpoint, MISMATCH, problems, MISMATCH_HINT)
    source = Source(checkpoint, without_mtp(checkpoint, tensors) if drop_mtp else tensors)
    return assemble(
        checkpoint,
        files,
        found,
        to,
        source.by_shard(),
        lambda name: _recipes(source, name, to),
        plain_config(checkpoint.config, to, drop_mtp),
        [drop_mtp],
        config_note=plain_note(to),
    )


def _odd_schemes(config: Mapping[str, Any]) -> list[str]:
    groups = config["quantization_config"].get("config_groups", {})
    problems = []
    for name, group in groups.items():
        weights = group.get("weights") or {}
        known = any(scheme.items() <= weights.items() for scheme in (_INT4, _FP8))
        if not known or not weights.get("symmetric", True) or weights.get("actorder"):
            stated = ", ".join(f"{key} {value}" for key, value in weights.items() if value)
            problems.append(f"{name}: {stated or 'no weights'}")
    return problems


def _problem(tensors: Mapping[str, Tensor], name: str) -> str | None:
    tensor = tensors[name]
    if name.endswith(".weight" + _PACKED):
        shape = tensor.shape
        if tensor.dtype != "I32" or len(shape) != 2 or shape[1] * 8 % GROUP:
            return f"{name}: is {tensor.dtype} {list(shape)}, not I32 in groups of {GROUP} inputs"
        expected, dtypes = (shape[0], shape[1] * 8 // GROUP), _INT4_SCALES
    elif tensor.dtype == "F8_E4M3" and len(tensor.shape) == 2:
        rows, columns = tensor.shape
        expected, dtypes = (-(-rows // _BLOCK[0]), -(-columns // _BLOCK[1])), _FP8_SCALES
    else:
        return None
    scale = tensors.get(name.removesuffix(_PACKED) + _SCALE)
    if scale is None or scale.dtype not in dtypes or scale.shape != expected:
        return f"{name}: its scale is not {' or '.join(dtypes)} of shape {list(expected)}"
    return None


def _recipes(source: Source, name: str, to: str) -> list[Recipe]:
    tensor = source.tensors[name]
    if name.endswith((".weight" + _SCALE, ".weight" + _SHAPE)):
        return []
    weight = name.removesuffix(_PACKED)
    if weight == name and tensor.dtype != "F8_E4M3":
        return [source.copied(name)]
    packed, scale = source.extent(name), source.extent(weight + _SCALE)
    rows, columns = tensor.shape
    if weight != name:
        shape = rows, columns * 8
        return [
            Recipe(
                {weight: (TARGETS[to], shape)},
                lambda at: DecodeInt4(weight, packed, scale, shape, to, at[weight], "vllm"),
            )
        ]
    dtype = source.tensors[weight + _SCALE].dtype
    return [
        Recipe(
            {name: (TARGETS[to], (rows, columns))},
            lambda at: Dequantize(
                name, packed, scale, dtype, (rows, columns), _BLOCK, to, at[name]
            ),
        )
    ]
