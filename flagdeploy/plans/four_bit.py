"""Plan four-bit checkpoints back to plain numbers: MXFP4 (gpt-oss), TensorRT-LLM's W4AFP8.

MXFP4: ``X_blocks`` U8 [experts, out, in/32, 16] and ``X_scales`` U8 [experts, out, in/32] become
``X`` [experts, in, out], the layout of transformers' gpt-oss (its integrations/mxfp4.py); rows of
gate and up stay interleaved. W4AFP8: INT4 experts times their scales; activation scales go.
"""

from collections.abc import Mapping

from flagdeploy.checkpoint import mxfp4
from flagdeploy.checkpoint.formats import SCALE, Format
from flagdeploy.checkpoint.fp8 import TARGETS
from flagdeploy.checkpoint.int4 import GROUP
from flagdeploy.checkpoint.quantize_jobs import DecodeInt4, DecodeMxfp4
from flagdeploy.checkpoint.safetensors_file import Tensor
from flagdeploy.checkpoint.verify import Verification
from flagdeploy.plans.assembly import assemble
from flagdeploy.plans.conversion_plan import ConversionPlan
from flagdeploy.plans.mtp import without_mtp
from flagdeploy.plans.pairs import MISMATCH, MISMATCH_HINT, check_pairs
from flagdeploy.plans.plain_config import plain_config, plain_note
from flagdeploy.plans.problems import refuse_all
from flagdeploy.plans.recipes import Recipe, Source, all_tensors

_BLOCKS, _SCALES = "_blocks", "_scales"
FP8_BLOCK = (128, 128)


def plan_four_bit(
    checkpoint: Verification,
    files: Mapping[str, int],
    found: Format,
    to: str,
    *,
    drop_mtp: bool = False,
) -> ConversionPlan:
    """Plan the decoding of an ``mxfp4`` or ``w4afp8`` checkpoint; shards keep their names.

    Raises CheckpointError naming every tensor without fitting scales.
    """
    tensors = all_tensors(checkpoint)
    if found.name == "w4afp8":
        check_pairs(checkpoint, without_int4(tensors), FP8_BLOCK)
    problems = four_bit_problems(tensors, found)
    refuse_all(checkpoint, MISMATCH, problems, MISMATCH_HINT)
    source = Source(checkpoint, without_mtp(checkpoint, tensors) if drop_mtp else tensors)
    config = plain_config(checkpoint.config, to, drop_mtp)
    note = plain_note(to)
    return assemble(
        checkpoint,
        files,
        found,
        to,
        source.by_shard(),
        lambda name: _recipes(source, name, to),
        config,
        [drop_mtp],
        config_note=note,
    )


def without_int4(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of W4AFP8 besides packed experts and their scales."""
    int4 = {name for name, tensor in tensors.items() if tensor.dtype == "I8"}
    return {n: t for n, t in tensors.items() if n.removesuffix(SCALE) not in int4}


def four_bit_problems(tensors: Mapping[str, Tensor], found: Format) -> list[str]:
    """``TENSOR: what`` for each four-bit tensor (``mxfp4``, ``w4afp8``) without fitting scales."""
    if found.name == "w4afp8":
        int4 = sorted(name for name, tensor in tensors.items() if tensor.dtype == "I8")
        return [problem for name in int4 if (problem := _int4_problem(tensors, name))]
    names = sorted(name for name in tensors if name.endswith((_BLOCKS, _SCALES)))
    problems = [problem for name in names if (problem := _mxfp4_problem(tensors, name))]
    return problems if names else [f"there is no tensor named ...{_BLOCKS}"]


def _recipes(source: Source, name: str, to: str) -> list[Recipe]:
    tensor = source.tensors[name]
    if name.endswith((_SCALES, SCALE, ".input_scale")):
        return []
    if name.endswith(_BLOCKS):
        experts, rows, groups, _ = tensor.shape
        plain, columns = name.removesuffix(_BLOCKS), groups * mxfp4.GROUP
        where = source.extent(name), source.extent(plain + _SCALES)
        outputs = {plain: (TARGETS[to], (experts, columns, rows))}
        stored = experts, rows, columns
        return [Recipe(outputs, lambda at: DecodeMxfp4(plain, *where, stored, to, at[plain]))]
    if tensor.dtype == "I8":
        shape = tensor.shape[0], tensor.shape[1] * 2
        pair = source.extent(name), source.extent(name + SCALE)
        target = {name: (TARGETS[to], shape)}
        return [Recipe(target, lambda at: DecodeInt4(name, *pair, shape, to, at[name]))]
    if tensor.dtype == "F8_E4M3":
        kind = {name: (TARGETS[to], tensor.shape)}
        return [Recipe(kind, lambda at: source.dequantize(name, FP8_BLOCK, to, at[name]))]
    return [source.copied(name)]


def _int4_problem(tensors: Mapping[str, Tensor], name: str) -> str | None:
    shape, scale = tensors[name].shape, tensors.get(name + SCALE)
    if len(shape) != 2 or shape[1] * 2 % GROUP:
        return f"{name}: is packed INT4 of shape {list(shape)}: no groups of {GROUP}"
    expected = (shape[0], shape[1] * 2 // GROUP)
    if scale is None or (scale.dtype, scale.shape) != ("F32", expected):
        return f"{name}{SCALE}: is not F32 of shape {list(expected)}"
    return None


def _mxfp4_problem(tensors: Mapping[str, Tensor], name: str) -> str | None:
    if name.endswith(_SCALES):
        blocks = name.removesuffix(_SCALES) + _BLOCKS
        return None if blocks in tensors else f"{name}: are scales without {blocks}"
    tensor = tensors[name]
    if tensor.dtype != "U8" or len(tensor.shape) != 4 or tensor.shape[3] != mxfp4.GROUP // 2:
        return f"{name}: is {tensor.dtype} of shape {list(tensor.shape)}, not U8 [.., .., .., 16]"
    scale = name.removesuffix(_BLOCKS) + _SCALES
    found = tensors.get(scale)
    if found is None or (found.dtype, found.shape) != ("U8", tensor.shape[:3]):
        return f"{scale}: is not U8 of shape {list(tensor.shape[:3])}"
    return None
