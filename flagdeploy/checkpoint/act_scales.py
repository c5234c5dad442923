"""Activation scales of routed experts: from a safetensors file or ModelOpt's folder, and to a file.

``model.layers.L.mlp.experts.E.w{1,2,3}.input_scale``, F32 [1], of w1 (gate), w2 (down) and w3 (up):
the largest absolute input seen in calibration, divided by 448, FP8 e4m3's largest number
(TensorRT-LLM examples/quantization/quantize_mixed_precision_moe.py). w1 and w3 share their input.
"""

import math
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from flagdeploy.checkpoint.folder import explained, write_file
from flagdeploy.checkpoint.fp8 import decode_scales
from flagdeploy.checkpoint.modelopt_amax import Place, read_amax
from flagdeploy.checkpoint.safetensors_file import header_bytes, read_header
from flagdeploy.errors import CheckpointError

_DTYPES = ("F32", "BF16")
_FP8_MAX = np.float32(448)


def read_act_scales(path: Path) -> dict[str, float]:
    """Read ``{NAME.input_scale: value}`` from a file of scalars (shape [] or [1], F32 or BF16), or
    from a folder of Model-Optimizer's ``amax_dict_rank*-mp*.pt``, the largest of all ranks.

    Raises CheckpointError for a damaged file, a missing rank, and for values that are not finite
    and positive.
    """
    if path.is_dir():
        return scales_of(read_amax(path))
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


def scales_of(amax: Mapping[Place, float]) -> dict[str, float]:
    """The scales, in FP32 arithmetic, of the largest absolute inputs.

    Raises CheckpointError for one that FP32 cannot hold.
    """
    scales = {}
    for (layer, expert, which), value in amax.items():
        name = f"model.layers.{layer}.mlp.experts.{expert}.{which}.input_scale"
        with np.errstate(all="ignore"):
            scale = np.float32(value) / _FP8_MAX
        if not 0 < scale < np.inf:
            raise CheckpointError(f"{name}: an amax of {value} gives no scale in FP32")
        scales[name] = float(scale)
    return scales


def write_act_scales(path: Path, scales: Mapping[str, float], metadata: Mapping[str, str]) -> None:
    """Write the file of scales, atomically; equal arguments give equal bytes."""
    head, header = header_bytes(dict.fromkeys(scales, ("F32", (1,))), metadata)
    data = b"".join(struct.pack("<f", scales[name]) for name in header.tensors)
    with explained(f"cannot write {path}"):
        write_file(path, head + data)
