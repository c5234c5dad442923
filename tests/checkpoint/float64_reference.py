"""FP8, BF16, FP16 and INT4 computed in double precision from the formats' definitions."""

import numpy as np

MANTISSA = {"bf16": 7, "fp16": 10, "fp32": 23, "fp8": 3}
SMALLEST = {"bf16": -133, "fp16": -24, "fp32": -149, "fp8": -9}
LARGEST = {"bf16": 2.0**128, "fp16": 2.0**16, "fp32": 2.0**128, "fp8": np.inf}


def value_of(code: int) -> float:
    """A code's value by e4m3fn's definition: sign, 4 exponent bits (bias 7), 3 mantissa bits."""
    sign = -1.0 if code & 0x80 else 1.0
    exponent, mantissa = (code >> 3) & 15, code & 7
    if exponent == 15 and mantissa == 7:
        return float("nan")
    if exponent == 0:
        return sign * mantissa * 2.0**-9
    return sign * (1 + mantissa / 8) * 2.0 ** (exponent - 7)


def rounded(values: np.ndarray, to: str) -> np.ndarray:
    """Doubles rounded to nearest even onto a format's grid, by arithmetic on the grid's step."""
    finite = np.where(np.isfinite(values), values, 0.0)
    _, exponent = np.frexp(finite)
    step = np.maximum(exponent - 1 - MANTISSA[to], SMALLEST[to])
    onto = np.ldexp(np.rint(np.ldexp(finite, -step)), step)
    onto = np.where(np.abs(onto) >= LARGEST[to], np.copysign(np.inf, onto), onto)
    onto = np.where(onto == 0, np.copysign(0.0, values), onto)
    return np.where(np.isfinite(values), onto, values)


def dequantized(codes: np.ndarray, scales: np.ndarray, to: str) -> np.ndarray:
    """The exact product in double precision (4 bits by 24 bits), rounded to FP32, then to `to`."""
    table = np.array([value_of(code) for code in range(256)])
    with np.errstate(all="ignore"):
        product = rounded(table[codes] * scales.astype(np.float64), "fp32")
        return rounded(product, to)


def expanded(scales: np.ndarray, block: tuple[int, int], shape: tuple[int, ...]) -> np.ndarray:
    """A scale for each element."""
    return scales.repeat(block[0], 0).repeat(block[1], 1)[: shape[0], : shape[1]]


def bits(values: np.ndarray, to: str) -> np.ndarray:
    """Doubles that lie on the grid, as the format's bits, with the canonical quiet NaN."""
    with np.errstate(all="ignore"):
        if to == "fp16":
            encoded = values.astype(np.float16).view(np.uint16)
        else:
            encoded = values.astype(np.float32).view(np.uint32)
            encoded = (encoded >> 16).astype(np.uint16) if to == "bf16" else encoded
    canonical = {"bf16": 0x7FC0, "fp16": 0x7E00, "fp32": 0x7FC00000}[to]
    return np.where(np.isnan(values), encoded.dtype.type(canonical), encoded)


def fp8_blocks(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values that FP8 codes of finite `values` stand for, and the scales, block by block."""
    rows, columns = values.shape
    scales = np.empty((-(-rows // 128), -(-columns // 128)))
    stored = np.empty_like(values)
    for i, j in np.ndindex(scales.shape):
        block = slice(128 * i, 128 * i + 128), slice(128 * j, 128 * j + 128)
        scale = rounded(np.abs(values[block]).max() / 448, "fp32") or 1.0
        scales[i, j] = scale
        stored[block] = rounded(np.clip(rounded(values[block] / scale, "fp32"), -448, 448), "fp8")
    return stored, scales


def int4_groups(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The integers of finite `values` in groups of 128 along the last axis, and the scales."""
    groups = values.reshape(len(values), -1, 128)
    scales = rounded(np.abs(groups).max(axis=2) / 7, "fp32")
    scales = np.where(scales == 0, 1.0, scales)
    numbers = np.rint(rounded(groups / scales[..., None], "fp32"))
    return numbers.reshape(values.shape).astype(np.int8), scales
