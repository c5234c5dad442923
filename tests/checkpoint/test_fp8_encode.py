"""FP8 encoding: ml_dtypes' own cast and torch's agree with it on every kind of value."""

import ml_dtypes
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from flagdeploy.checkpoint.fp8 import decode_table
from flagdeploy.checkpoint.fp8_encode import encode, quantize_blocks


def reference(values: np.ndarray) -> np.ndarray:
    return np.clip(values, -448, 448).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)


def test_all_codes_and_all_that_lies_between() -> None:
    table = decode_table()
    codes = np.array([code for code in range(256) if code & 0x7F != 0x7F], np.uint8)
    assert np.array_equal(encode(table[codes]), codes)
    ordered = np.sort(table[codes])
    middles = ((ordered[1:].astype(np.float64) + ordered[:-1]) / 2).astype(np.float32)
    around = [np.nextafter(middles, np.float32(side)) for side in (-np.inf, np.inf)]
    for values in (middles, *around):
        assert np.array_equal(encode(values), reference(values))


def test_all_bf16_values() -> None:
    bits = np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)
    values = bits.view(np.float32)
    values = values[np.isfinite(values)]
    assert np.array_equal(encode(values), reference(values))


@given(arrays(np.float32, 257, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_any_finite_values(values: np.ndarray) -> None:
    assert np.array_equal(encode(values), reference(values))


FINITE = st.integers(0, 0xFFFF).filter(lambda bits: bits & 0x7F80 != 0x7F80)
SHAPES = array_shapes(min_dims=2, max_dims=2, max_side=300).filter(lambda shape: shape[0] <= 128)


@settings(max_examples=100)
@given(SHAPES.flatmap(lambda shape: arrays(np.uint16, shape, elements=FINITE, fill=FINITE)))
def test_blocks(bits: np.ndarray) -> None:
    """Ragged on the right and at the bottom, against torch's maximum, quotient and cast."""
    values = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    codes = np.full(values.shape, 0xAA, np.uint8)
    scales = np.full(-(-values.shape[1] // 128), np.nan, np.float32)
    assert quantize_blocks(values, codes, scales)
    for index, block in enumerate(torch.from_numpy(values).split(128, dim=1)):
        scale = block.abs().max() / 448
        scale = scale if scale else torch.tensor(1.0)
        assert scales[index] == scale
        expected = (block / scale).clamp(-448, 448).to(torch.float8_e4m3fn)
        got = codes[:, 128 * index : 128 * (index + 1)]
        assert np.array_equal(got, expected.view(torch.uint8).numpy())


def test_nan_and_infinities_are_told() -> None:
    for bad in (np.nan, np.inf, -np.inf):
        values = np.ones((128, 300), np.float32)
        values[127, 299] = bad
        assert not quantize_blocks(values, np.empty((128, 300), np.uint8), np.empty(3, np.float32))
