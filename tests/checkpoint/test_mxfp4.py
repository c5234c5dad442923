"""MXFP4: every byte with every exponent is the number that the specification says."""

import ml_dtypes
import numpy as np

from flagdeploy.checkpoint.mxfp4 import decode


def test_every_byte_with_every_exponent() -> None:
    blocks = np.tile(np.arange(256, dtype=np.uint8).reshape(1, 16, 16), (256, 1, 1))
    exponents = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 16, axis=1)
    halves = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(256, 512)
    numbers = halves.astype(np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float64)
    powers = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e8m0fnu).astype(np.float64)
    with np.errstate(all="ignore"):
        expected = (numbers * powers[:, None]).astype(np.float32)
    assert np.array_equal(decode(blocks, exponents), expected, equal_nan=True)
    assert np.isnan(decode(blocks, exponents)[255]).all()
