"""NaN and infinities in every format, against the formats' own libraries."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from safetensors.torch import save_file

from checkpoint.deepseek_layout import deepseek
from flagdeploy.checkpoint import hashes
from flagdeploy.checkpoint.hashes import read_data
from flagdeploy.checkpoint.nonfinite import NotFinite, not_finite, value_dtype
from flagdeploy.checkpoint.safetensors_file import Tensor, read_header
from flagdeploy.checkpoint.verify import Finding

TORCH = {
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
WIDE = {"F32": np.float32, "F64": np.float64}


@pytest.mark.parametrize("dtype", TORCH)
def test_every_code(dtype: str) -> None:
    size = TORCH[dtype].itemsize
    codes = np.arange(256**size, dtype=np.uint8 if size == 1 else np.uint16)
    values = torch.from_numpy(codes.copy()).view(TORCH[dtype]).double().numpy()
    bad = {int(code) for code in codes[~np.isfinite(values)]}
    for code in bad | {0, 1, *range(0, 256**size, 7)}:
        found = not_finite(codes[code : code + 1].data.cast("B"), 0, dtype)
        assert (found is not None) == (code in bad), code
    everything = not_finite(codes.data.cast("B"), 0, dtype)
    infinities = int(np.isinf(values).sum())
    assert everything == NotFinite(len(bad) - infinities, infinities, min(bad))


@pytest.mark.parametrize("dtype", WIDE)
@settings(deadline=None)
@given(data=st.data())
def test_wide_formats(dtype: str, data: st.DataObject) -> None:
    values = data.draw(npst.arrays(WIDE[dtype], st.integers(0, 20)))
    found = not_finite(values.tobytes(), 8 * values.itemsize, dtype)
    bad = np.flatnonzero(~np.isfinite(values))
    if not bad.size:
        assert found is None
    else:
        nan = int(np.isnan(values).sum())
        assert found == NotFinite(nan, bad.size - nan, 8 + int(bad[0]))


def test_integers_have_none() -> None:
    for dtype in ("U8", "I8", "I32", "I64", "BOOL", "F4"):
        assert not_finite(b"\xff" * 16, 0, dtype) is None


def test_scales_stored_as_bytes_are_exponents() -> None:
    for name, dtype in {
        "x.weight_scale_inv": "F8_E8M0",
        "experts.gate_up_proj_scales": "F8_E8M0",
        "experts.gate_up_proj_blocks": "U8",
    }.items():
        assert value_dtype(Tensor(name, "U8", (1,), 0, 1)) == dtype


def test_tensors_are_named_with_count_and_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks end inside of tensors and rows; the counts go over all of them."""
    monkeypatch.setattr(hashes, "_CHUNK", 256)
    tensors = {
        "a": torch.zeros(3, 100),
        "b": torch.zeros(3, 100).bfloat16(),
        "c": torch.zeros(2, 3, 100).to(torch.float8_e4m3fn),
        "d": torch.full((2, 2), 255, dtype=torch.uint8),
        "e": torch.zeros(0),
    }
    tensors["a"][1, 7] = torch.nan
    tensors["a"][2, 99] = torch.inf
    tensors["b"][0, 3] = -torch.inf
    tensors["c"].view(torch.uint8)[1, 2, 98:] = 0x7F
    save_file(tensors, tmp_path / "model.safetensors")
    header = read_header(tmp_path / "model.safetensors")
    counted: list[int] = []
    none, found = read_data(tmp_path, {}, {"model.safetensors": header}, counted.append, workers=2)
    assert none == {}
    assert sum(counted) == header.file_bytes
    assert sorted(map(str, found)) == [
        "model.safetensors: not finite: a: 1 NaN and 1 infinite of 300 values, the first at [1, 7]",
        "model.safetensors: not finite: b: 1 infinite of 300 values, the first at [0, 3]",
        "model.safetensors: not finite: c: 2 NaN of 600 values, the first at [1, 2, 98]",
    ]


def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = deepseek().write(tmp_path / "model")
    name, gone = (f"model-0000{i}-of-000003.safetensors" for i in (1, 2))
    headers = {name: read_header(folder / name), gone: read_header(folder / gone)}
    (folder / gone).unlink()

    def broken(file: object, buffer: memoryview) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(hashes, "_fill", broken)
    _, found = read_data(folder, {}, headers, lambda count: None, workers=2)
    assert found == (
        Finding(name, "unreadable", "Input/output error"),
        Finding(gone, "missing", "the source has it, the folder lacks it"),
    )
