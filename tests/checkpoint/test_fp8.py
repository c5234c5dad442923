"""The FP8 kernels, bit for bit against double precision and against other implementations."""

import importlib.util
import struct
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from checkpoint.float64_reference import bits, dequantized, expanded, value_of
from flagdeploy.checkpoint import native
from flagdeploy.checkpoint.fp8 import Dequantizer, decode_scales, decode_table, nonfinite
from flagdeploy.checkpoint.native import NativeDequantizer
from flagdeploy.errors import UsageError

ROOT = Path(__file__).parent.parent.parent
Kernel = Callable[[str], Dequantizer | NativeDequantizer]

NUMPY = {"bf16": np.uint16, "fp16": np.float16, "fp32": np.float32}
CODES = np.arange(256, dtype=np.uint8)


@pytest.fixture(scope="module", params=["numpy", "native"])
def kernel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    """Each kernel in turn; the native one compiled from the sources as they are now."""
    if request.param == "numpy":
        return Dequantizer
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec and spec.loader
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    if not hook.compiler():
        pytest.skip("there is no C compiler, so there is no native kernel")
    library = tmp_path_factory.mktemp("kernel") / "_fp8.so"
    assert hook.build(ROOT / "flagdeploy/checkpoint/_fp8.c", library) is None
    return lambda to: NativeDequantizer(to, library)


def dequantize(
    kernel: Kernel,
    codes: np.ndarray,
    scales: np.ndarray,
    to: str,
    block: tuple[int, int] = (128, 128),
) -> np.ndarray:
    out = np.empty(codes.shape, NUMPY[to])
    bad = kernel(to)(codes, scales, out, 0, block)
    assert bad == nonfinite(out, to)
    return out.view(np.uint32 if to == "fp32" else np.uint16)


def test_table_is_the_format() -> None:
    expected = np.array([value_of(code) for code in range(256)], np.float32)
    assert (decode_table().view(np.uint32) & 0x7FFFFFFF != 0x7FFFFFFF).all()
    np.testing.assert_array_equal(decode_table(), expected)
    np.testing.assert_array_equal(
        decode_table(), CODES.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    )


SPECIAL = [
    *(0.0, -0.0, 1.0, -1.0, 2.0**-149, -(2.0**-149), 2.0**-126, 2.0**-127, 2.0**-133, 2.0**-134),
    *(255.99998474121094, 256.0, -255.5, -256.0, 257.0, 448.0, 2.0**100, 3.0e38, -3.0e38),
    *(float("inf"), float("-inf"), float("nan"), 1 / 448, 1e-38, 1e-40, 0.1, 2.0**-24, 2.0**-20),
]


@pytest.mark.parametrize("to", NUMPY)
def test_every_code_with_every_special_scale(kernel: Kernel, to: str) -> None:
    scales = np.array(SPECIAL, np.float32)
    codes = np.tile(CODES, (len(scales), 1))
    got = dequantize(kernel, codes, scales[:, None], to, block=(1, 256))
    np.testing.assert_array_equal(got, bits(dequantized(codes, scales[:, None], to), to))


@pytest.mark.parametrize("to", NUMPY)
def test_every_code_with_every_exponent(kernel: Kernel, to: str) -> None:
    """All exponents of FP32 with mantissas that round up, down and to even."""
    mantissas = np.array([0, 1, 0x7FFFFF, 0x400000, 0x3FFFFF, 0x008000, 0x018000, 0x2AAAAA])
    exponents = np.arange(256)
    patterns = (exponents[:, None] << 23 | mantissas).astype(np.uint32).reshape(-1)
    patterns = np.concatenate([patterns, patterns | 0x80000000])
    scales = patterns.view(np.float32)
    codes = np.tile(CODES, (len(scales), 1))
    got = dequantize(kernel, codes, scales[:, None], to, block=(1, 256))
    np.testing.assert_array_equal(got, bits(dequantized(codes, scales[:, None], to), to))


FLOATS = st.integers(0, 2**32 - 1).map(lambda n: struct.unpack("<f", struct.pack("<I", n))[0])


@st.composite
def matrices(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    block = draw(st.sampled_from([(128, 128), (4, 8), (1, 1), (3, 5), (128, 1)]))
    shape = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    if block == (128, 128):
        shape = shape[0] * 8, shape[1] * 8 + draw(st.integers(0, 7))
    codes = np.random.default_rng(draw(st.integers(0, 2**32))).integers(0, 256, shape, np.uint8)
    if draw(st.booleans()):
        codes[(codes & 0x7F) == 0x7F] = 0
    scale_shape = -(-shape[0] // block[0]), -(-shape[1] // block[1])
    scales = draw(npst.arrays(np.float32, scale_shape, elements=FLOATS | st.floats(0, 1, width=32)))
    return codes, scales, block


@settings(max_examples=150)
@given(matrices(), st.sampled_from(sorted(NUMPY)))
def test_any_shape_scale_and_block(
    kernel: Kernel, case: tuple[np.ndarray, np.ndarray, tuple[int, int]], to: str
) -> None:
    codes, scales, block = case
    got = dequantize(kernel, codes, scales, to, block)
    full = expanded(scales, block, codes.shape)
    np.testing.assert_array_equal(got, bits(dequantized(codes, full, to), to))


@settings(max_examples=40)
@given(st.data())
def test_tiles_from_any_row_give_the_whole(kernel: Kernel, data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 500)), data.draw(st.integers(1, 300))
    chance = np.random.default_rng(rows * 1000 + columns)
    codes = chance.integers(0, 256, (rows, columns), np.uint8)
    scales = chance.random((-(-rows // 128), -(-columns // 128)), np.float32)
    whole = dequantize(kernel, codes, scales, "bf16")
    top = data.draw(st.integers(0, rows - 1))
    stop = data.draw(st.integers(top + 1, rows))
    part = np.empty((stop - top, columns), np.uint16)
    needed = scales[top // 128 : (stop - 1) // 128 + 1]
    kernel("bf16")(codes[top:stop], needed, part, top, (128, 128))
    np.testing.assert_array_equal(part, whole[top:stop])


def test_agrees_with_torch_on_weights_as_they_occur(kernel: Kernel) -> None:
    torch.manual_seed(0)
    weight = (torch.randn(576, 1000) * 100).to(torch.float8_e4m3fn)
    scale = torch.rand(5, 8) * 1e-3
    full = scale.repeat_interleave(128, 0)[:576].repeat_interleave(128, 1)[:, :1000]
    expected = (weight.float() * full).bfloat16().view(torch.uint16).numpy()
    got = dequantize(kernel, weight.view(torch.uint8).numpy(), scale.numpy(), "bf16")
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("to", NUMPY)
def test_counts_what_is_not_finite(kernel: Kernel, to: str) -> None:
    codes = np.array([[0x7F, 0xFF, 0x7E, 0x00]], np.uint8)
    out = np.empty(codes.shape, NUMPY[to])
    assert kernel(to)(codes, np.float32([[1]]), out, 0, (128, 128)) == 2
    assert nonfinite(out, to) == 2
    assert kernel(to)(codes, np.float32([[3e38]]), out, 0, (128, 128)) == 3


def test_fp16_overflow_is_counted_on_the_fast_path(kernel: Kernel) -> None:
    codes = np.full((1, 4), 0x7E, np.uint8)
    out = np.empty(codes.shape, np.float16)
    assert kernel("fp16")(codes, np.float32([[200]]), out, 0, (128, 128)) == 4


@pytest.mark.parametrize("to", NUMPY)
def test_kernels_agree_on_rows_of_subnormal_and_of_ordinary_codes(kernel: Kernel, to: str) -> None:
    """Codes below 8 take another way through the native kernel, scales from 256 on a third."""
    chance = np.random.default_rng(0)
    codes = chance.integers(8, 127, (300, 260), np.uint8)
    codes[100:200] &= 0x87
    codes[250:] |= chance.integers(0, 2, (50, 260), np.uint8) << 7
    scales = np.float32([[0.5, 2.0**-120, 255.5], [3.0, 256.0, -(2.0**-10)], [1e-3, -1e30, 1e-45]])
    full = expanded(scales, (128, 128), codes.shape)
    expected = bits(dequantized(codes, full, to), to)
    np.testing.assert_array_equal(dequantize(kernel, codes, scales, to), expected)


def test_native_takes_contiguous_arrays_only(kernel: Kernel) -> None:
    if kernel is Dequantizer:
        return
    codes = np.zeros((4, 8), np.uint8)
    with pytest.raises(ValueError, match="must be C-contiguous"):
        kernel("bf16")(codes[:, ::2], np.ones((1, 1), np.float32), codes[:, :4], 0, (128, 128))


def test_the_environment_chooses_the_kernel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FLAGDEPLOY_KERNEL", "numpy")
    assert native.kernel() == "numpy"
    assert isinstance(native.dequantizer("bf16"), Dequantizer)
    monkeypatch.setattr(native, "LIBRARY", tmp_path / "none.so")
    monkeypatch.delenv("FLAGDEPLOY_KERNEL")
    assert native.kernel() == "numpy"
    monkeypatch.setenv("FLAGDEPLOY_KERNEL", "native")
    with pytest.raises(UsageError) as caught:
        native.kernel()
    assert str(caught.value) == "FLAGDEPLOY_KERNEL=native: the native kernel is not installed"
    monkeypatch.setenv("FLAGDEPLOY_KERNEL", "cuda")
    with pytest.raises(UsageError) as caught:
        native.kernel()
    assert str(caught.value) == "FLAGDEPLOY_KERNEL=cuda: no such kernel"


def test_a_library_that_does_not_load_is_as_good_as_none(tmp_path: Path) -> None:
    library = tmp_path / "_fp8.so"
    library.write_bytes(b"not a library")
    assert native.functions(library) == {}


def test_scales_of_every_stored_dtype() -> None:
    raw = np.arange(256, dtype=np.uint8)
    expected = raw.view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    for dtype in ("F8_E8M0", "U8"):
        np.testing.assert_array_equal(decode_scales(raw, dtype), expected)
    half = raw.view(np.uint8)
    np.testing.assert_array_equal(
        decode_scales(half, "BF16"), half.view(ml_dtypes.bfloat16).astype(np.float32)
    )
    np.testing.assert_array_equal(decode_scales(raw, "F32"), raw.view(np.float32))
