"""FP8 weights and their scales: each must have the other, and their shapes must fit.

Layout: DeepSeek-V3 README_WEIGHTS.md: ``X`` FP8 [rows, columns] and ``X_scale_inv``, a value per
block. They may lie in different shards.
"""

from collections.abc import Mapping

from flagdeploy.checkpoint.formats import SCALE, SCALE_DTYPES
from flagdeploy.checkpoint.safetensors_file import Tensor
from flagdeploy.checkpoint.verify import Verification
from flagdeploy.plans.problems import refuse_all

MISMATCH = "tensors and scales do not match"
MISMATCH_HINT = (
    "the checkpoint is incomplete or of another layout; flagdeploy pull fetches it again"
)


def check_pairs(
    checkpoint: Verification, tensors: Mapping[str, Tensor], block: tuple[int, int]
) -> None:
    """Raise CheckpointError naming FP8 tensors without a fitting scale and scales without one."""
    problems = [
        f"{shard}: {name}: {what}"
        for shard, name, what in pair_problems(checkpoint, tensors, block)
    ]
    refuse_all(checkpoint, MISMATCH, problems, MISMATCH_HINT)


def pair_problems(
    checkpoint: Verification, tensors: Mapping[str, Tensor], block: tuple[int, int]
) -> list[tuple[str, str, str]]:
    """(shard, tensor, what) for each FP8 tensor without a fitting scale, and scale without one."""
    weights = [tensor for tensor in tensors.values() if tensor.dtype == "F8_E4M3"]
    scales = [tensors.get(tensor.name + SCALE) for tensor in weights]
    # 45,000 pairs have some ten shapes; one scale more than weights is one without its weight.
    pairs = zip(weights, scales, strict=True)
    shapes = {(w.shape, s and (s.dtype, s.shape)): (w, s) for w, s in pairs}
    fit = not any(_scale_problem(*pair, block) for pair in shapes.values())
    if fit and sum(name.endswith(SCALE) for name in tensors) == len(weights):
        return []
    problems = []
    for name, tensor in tensors.items():
        if tensor.dtype == "F8_E4M3":
            problem = _scale_problem(tensor, tensors.get(name + SCALE), block)
        elif name.endswith(SCALE):
            weight = tensors.get(name.removesuffix(SCALE))
            problem = None
            if weight is None or weight.dtype != "F8_E4M3":
                problem = "is a scale without its FP8 tensor"
        else:
            continue
        if problem:
            problems.append((checkpoint.index.weight_map[name], name, problem))
    return problems


def _scale_problem(tensor: Tensor, scale: Tensor | None, block: tuple[int, int]) -> str | None:
    if len(tensor.shape) != 2:
        return f"is FP8 of shape {list(tensor.shape)}; only matrices can be dequantized"
    if scale is None:
        return f"its scale {tensor.name}{SCALE} is in no shard"
    if scale.dtype not in SCALE_DTYPES:
        return f"its scale has the dtype {scale.dtype}, not one of {', '.join(SCALE_DTYPES)}"
    expected = tuple(-(-size // step) for size, step in zip(tensor.shape, block, strict=True))
    if scale.shape != expected:
        return (
            f"its scale has the shape {list(scale.shape)}; "
            f"{list(tensor.shape)} in blocks of {list(block)} needs {list(expected)}"
        )
    return None
