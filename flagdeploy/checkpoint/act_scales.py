"""Activation scales of experts, as calibration writes them into one safetensors file."""

import math
from pathlib import Path

import numpy as np

from flagdeploy.checkpoint.folder import explained
from flagdeploy.checkpoint.fp8 import decode_scales
from flagdeploy.checkpoint.safetensors_file import read_header
from flagdeploy.errors import CheckpointError

_DTYPES = ("F32", "BF16")


def read_act_scales(path: Path) -> dict[str, float]:
    """Read ``{NAME.input_scale: value}`` from a file of scalars (shape [] or [1], F32 or BF16).

    Raises CheckpointError for a damaged file and for values that are not finite and positive.
    """
    header = read_header(path)
    values = {}
    with explained(f"cannot read {path}"):
        data = np.fromfile(path, np.uint8, offset=header.data_start)
    for name, tensor in header.tensors.items():
        if tensor.dtype not in _DTYPES or math.prod(tensor.shape) != 1:
            raise CheckpointError(
                f"{path}: {name}: is {tensor.dtype} {list(tensor.shape)}, not one number "
                f"of {' or '.join(_DTYPES)}"
            )
        value = float(decode_scales(data[tensor.begin : tensor.end].copy(), tensor.dtype)[0])
        if not (math.isfinite(value) and value > 0):
            raise CheckpointError(f"{path}: {name}: {value} is not a scale")
        values[name] = value
    return values
