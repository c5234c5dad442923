"""INT4 groups: the bits of the published algorithm, for all kinds of values."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from checkpoint.published_w4afp8 import pack, pack_for_compressed_tensors, quantize
from flagdeploy.checkpoint.int4 import Int4Quantizer, bf16_to_fp32, unpack

FINITE = st.integers(0, 0xFFFF).filter(lambda bits: bits & 0x7F80 != 0x7F80)
QUANTIZER = Int4Quantizer()


def quantized(bits: np.ndarray, offset: bool = False) -> tuple[np.ndarray, np.ndarray]:
    packed = np.full((len(bits), 64), 0xAA, np.uint8)
    scales = np.full(len(bits), np.nan, np.float32)
    assert QUANTIZER(bits, packed, scales, offset)
    return packed, scales


def check(bits: np.ndarray) -> None:
    values = torch.from_numpy(bits.view(np.int16).copy()).view(torch.bfloat16)
    numbers, scale = quantize(values)
    packed, scales = quantized(bits)
    assert np.array_equal(scales.view(np.uint32), scale[:, 0].numpy().view(np.uint32))
    assert np.array_equal(packed, pack(numbers).numpy().view(np.uint8))
    assert np.array_equal(unpack(packed), numbers.numpy())
    shifted, same = quantized(bits, offset=True)
    assert np.array_equal(same, scales)
    words = pack_for_compressed_tensors(numbers).numpy()
    assert np.array_equal(shifted.view("<i4"), words)
    assert np.array_equal(unpack(shifted, offset=True), numbers.numpy())


@settings(max_examples=150)
@given(
    st.integers(1, 5).flatmap(
        lambda groups: arrays(np.uint16, (groups, 128), elements=FINITE, fill=FINITE)
    )
)
def test_any_finite_values(bits: np.ndarray) -> None:
    check(bits)


@pytest.mark.parametrize("size", [2.0**-133, 2.0**-126, 1e-30, 1.0, 448.0, 3e38])
def test_random_weights_of_every_size(size: float) -> None:
    torch.manual_seed(0)
    weight = (torch.randn(1500, 128) * size).clamp(-3e38, 3e38).bfloat16()
    check(weight.view(torch.int16).numpy().view(np.uint16))


def test_every_quotient_of_two_bf16_significands() -> None:
    """All 128 significands against all peaks, halves of integers among the quotients."""
    peak = (1 + torch.arange(128) / 128)[:, None]
    below = 1 + torch.arange(128) / 128
    for exponent in range(5):
        weight = torch.minimum(below.expand(128, 128) * 2.0**-exponent, peak).clone()
        weight[:, 0] = peak[:, 0]
        check(weight.bfloat16().view(torch.int16).numpy().view(np.uint16))


def test_a_group_of_zeros_has_the_scale_one() -> None:
    bits = np.zeros((2, 128), np.uint16)
    bits[0, ::2] = 0x8000
    packed, scales = quantized(bits)
    assert packed.tolist() == np.zeros((2, 64)).tolist()
    assert scales.tolist() == [1, 1]
    assert set(quantized(bits, offset=True)[0].ravel()) == {0x88}


@pytest.mark.parametrize("bad", [0x7F80, 0xFF80, 0x7FC0, 0xFFFF])
def test_nan_and_infinities_are_told(bad: int) -> None:
    bits = np.full((700, 128), 0x3F80, np.uint16)
    bits[650, 77] = bad
    packed, scales = np.empty((700, 64), np.uint8), np.empty(700, np.float32)
    assert not QUANTIZER(bits, packed, scales)


@settings(max_examples=50)
@given(arrays(np.uint16, (3, 128), elements=FINITE, fill=FINITE))
def test_back_within_half_a_step(bits: np.ndarray) -> None:
    packed, scales = quantized(bits)
    back = unpack(packed).astype(np.float64) * scales[:, None]
    exact = bf16_to_fp32(bits).astype(np.float64)
    # One FP32 rounding of scale and quotient each on top of half a step.
    assert (np.abs(back - exact) <= scales[:, None] * (0.5 + 1e-3)).all()
