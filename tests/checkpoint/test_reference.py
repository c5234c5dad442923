"""The reference that conversions are compared with is right by itself: against torch, ml_dtypes,
and numbers worked out by hand."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from checkpoint.deepseek_layout import Layout
from checkpoint.published_w4afp8 import pack, pack_for_compressed_tensors
from flagdeploy.checkpoint.comparison import Error, Place, compare_piece
from flagdeploy.checkpoint.jobs import Copy, Dequantize, Extent
from flagdeploy.checkpoint.pieces import any_piece, pieces
from flagdeploy.checkpoint.quantize_jobs import DecodeInt4, DecodeMxfp4, QuantizeFp8, QuantizeInt4
from flagdeploy.checkpoint.reading import OpenFolder, Piece
from flagdeploy.checkpoint.reference import _nearest_e4m3, recompute
from flagdeploy.errors import CheckpointError


@settings(deadline=None)
@given(
    npst.arrays(
        np.float32,
        st.integers(1, 50),
        elements=st.floats(-500, 500, width=32) | st.floats(-(2**-5), 2**-5, width=32),
    )
)
def test_nearest_code(values: np.ndarray) -> None:
    expected = np.clip(values, -448, 448).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    assert np.array_equal(_nearest_e4m3(values), expected)


def test_nearest_code_at_every_border() -> None:
    """All values of e4m3fn, the middles between them, and their neighbours in FP32."""
    table = np.arange(0x7F, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    middles = (table[1:] + table[:-1]) / 2
    points = np.concatenate([table, middles])
    near = [points, np.nextafter(points, np.float32(0)), np.nextafter(points, np.float32(1e9))]
    values = np.concatenate([*near, *(-part for part in near)])
    expected = np.clip(values, -448, 448).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    assert np.array_equal(_nearest_e4m3(values), expected)


def whole(item: object, source: Path) -> np.ndarray:
    """The exact values of a tensor, put together of its pieces."""
    with OpenFolder(source) as opened:
        found = [recompute(item, piece, opened).exact for piece in pieces(item)]  # type: ignore[arg-type]
    return np.concatenate([part.reshape(-1) for part in found if part is not None])


def test_exact_products(tmp_path: Path) -> None:
    torch.manual_seed(0)
    codes = (torch.randn(300, 200) * 100).clamp(-448, 448).to(torch.float8_e4m3fn)
    scales = torch.rand(3, 2) * 1e-3
    (tmp_path / "x").write_bytes(
        codes.view(torch.uint8).numpy().tobytes() + scales.numpy().tobytes()
    )
    where = Extent("x", 0, 60000), Extent("x", 60000, 24)
    item = Dequantize("w", *where, "F32", (300, 200), (128, 128), "bf16", 0)
    full = scales.double().repeat_interleave(128, 0).repeat_interleave(128, 1)[:300, :200]
    assert np.array_equal(whole(item, tmp_path), (codes.double() * full).numpy().reshape(-1))


@pytest.mark.parametrize("layout", ["trtllm", "vllm"])
def test_exact_values_of_packed_integers(tmp_path: Path, layout: str) -> None:
    torch.manual_seed(0)
    numbers = torch.randint(-8, 8, (3, 256), dtype=torch.int8)
    scales = torch.rand(3, 2)
    packed = pack(numbers)
    if layout == "vllm":
        packed, scales = pack_for_compressed_tensors(numbers), scales.bfloat16()
    content = packed.view(torch.uint8).numpy().tobytes()
    (tmp_path / "x").write_bytes(content + scales.view(torch.uint8).numpy().tobytes())
    where = Extent("x", 0, 384), Extent("x", 384, 0)
    item = DecodeInt4("w", *where, (3, 256), "bf16", 0, layout)
    exact = numbers.double() * scales.double().repeat_interleave(128, dim=1)
    assert np.array_equal(whole(item, tmp_path), exact.numpy().reshape(-1))


def test_error_is_that_of_torch(tmp_path: Path) -> None:
    """One BF16 block against FP8 codes that were written for it, one of them wrong."""
    torch.manual_seed(0)
    weight = torch.randn(128, 128).bfloat16()
    scale = weight.float().abs().max() / 448
    codes = (weight.float() / scale).to(torch.float8_e4m3fn)
    right = codes.view(torch.uint8)[3, 5].item()
    codes.view(torch.uint8)[3, 5] = 0x01
    (tmp_path / "source").write_bytes(weight.view(torch.uint8).numpy().tobytes())
    stored = codes.view(torch.uint8).numpy().tobytes() + scale.numpy().tobytes()
    (tmp_path / "target").write_bytes(stored)
    item = QuantizeFp8("w", Extent("source", 0, 32768), (128, 128), 0, 16384)
    piece = Piece(0, 0, 128, 128)
    with OpenFolder(tmp_path) as opened:
        places = [Place("target", 0), Place("target", 16384)]
        error, found = compare_piece(item, piece, opened, opened, places)
    assert found == [(1, 3 * 128 + 5, 0x01, right), None]
    wrong = codes.double() * scale.double() - weight.double()
    assert error.elements == 128 * 128
    assert error.largest == wrong.abs().max().item()
    assert error.relative == pytest.approx((wrong.norm() / weight.double().norm()).item())


def test_errors_add_up_and_leave_out_what_is_not_finite(tmp_path: Path) -> None:
    values = np.array([[1.0, np.nan, np.inf, 3.0] * 32] * 1, np.float32).astype(ml_dtypes.bfloat16)
    (tmp_path / "source").write_bytes(values.tobytes())
    (tmp_path / "target").write_bytes(bytes(64) + np.float32([1]).tobytes())
    item = QuantizeInt4("w", Copy("w", Extent("source", 0, 256), 0), (1, 128), "trtllm", 0, 64)
    with OpenFolder(tmp_path) as opened:
        places = [Place("target", 0), Place("target", 64)]
        error, _ = compare_piece(item, Piece(0, 0, 1, 128), opened, opened, places)
    assert (error.wrong, error.size, error.largest) == (320.0, 320.0, 3.0)
    error.add(Error(2, 80.0, 480.0, 4.0))
    assert (error.elements, error.relative, error.largest) == (130, 0.5**0.5, 4.0)


ITEMS = [
    Copy("c", Extent("x", 0, 3_000_001), 0),
    Dequantize(
        "d", Extent("x", 0, 0), Extent("x", 0, 0), "F32", (300, 7168), (128, 128), "bf16", 0
    ),
    Dequantize(
        "e", Extent("x", 0, 0), Extent("x", 0, 0), "F32", (2, 200_000), (128, 128), "bf16", 0
    ),
    QuantizeFp8("q", Extent("x", 0, 0), (300, 1300), 0, 0),
    QuantizeInt4("i", Copy("i", Extent("x", 0, 0), 0), (5, 256 * 300), "vllm", 0, 0),
    DecodeInt4("j", Extent("x", 0, 0), Extent("x", 0, 0), (700, 256), "fp16", 0),
    DecodeMxfp4("m", Extent("x", 0, 0), Extent("x", 0, 0), (3, 600, 1056), "bf16", 0),
]


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.name)
def test_pieces_cover_a_tensor_once(item: object) -> None:
    """And pieces of quantizations start at a scale and end with one."""
    if isinstance(item, Copy):
        shape = (1, item.source.nbytes)
    else:
        *count, rows, columns = item.shape  # type: ignore[attr-defined]
        shape = ((count[0] if count else 1) * rows, columns)
    seen = np.zeros(shape, np.uint8)
    for piece in pieces(item):  # type: ignore[arg-type]
        bottom, right = piece.row + piece.height, piece.column + piece.width
        seen[piece.row : bottom, piece.column : right] += 1
        if isinstance(item, QuantizeFp8):
            assert piece.row % 128 == piece.column % 128 == 0
        if isinstance(item, DecodeMxfp4):
            assert piece.row // 600 == (bottom - 1) // 600
        if isinstance(item, QuantizeInt4 | DecodeInt4):
            assert piece.column % 128 == piece.width % 128 == 0
    assert (seen == 1).all()


@settings(deadline=None)
@given(seed=st.randoms(use_true_random=False), item=st.sampled_from(ITEMS))
def test_samples_lie_inside(seed: object, item: object) -> None:
    piece = any_piece(item, seed)  # type: ignore[arg-type]
    assert piece.height > 0
    assert piece.width > 0
    if isinstance(item, Copy):
        assert piece.column + piece.width <= item.source.nbytes
    else:
        *count, rows, columns = item.shape  # type: ignore[attr-defined]
        assert piece.row + piece.height <= (count[0] if count else 1) * rows
        assert piece.column + piece.width <= columns


def test_a_file_that_ends_early_is_an_error(tmp_path: Path) -> None:
    folder = Layout({"model.safetensors": {"x": torch.zeros(4)}}).write(tmp_path / "m")
    with OpenFolder(folder) as opened:
        assert opened.read("config.json", 0, 2).tobytes() == b"{}"
        with pytest.raises(CheckpointError, match="ends early: it was cut while being read"):
            opened.read("config.json", 0, 3)
        with pytest.raises(CheckpointError, match=r"^cannot read .*/m/none: No such file"):
            opened.read("none", 0, 1)
