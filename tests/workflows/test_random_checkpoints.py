"""Checkpoints of random shapes, values, scales and shards, converted: double precision agrees."""

import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from checkpoint.deepseek_layout import Layout
from checkpoint.float64_reference import bits, dequantized, expanded, fp8_blocks, int4_groups
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from safetensors.torch import load_file

from flagdeploy.checkpoint import native
from flagdeploy.workflows.dequant import dequant

SCALE = "_scale_inv"
EXPERT = "model.layers.{}.mlp.experts.{}.{}_proj.weight"
FP8 = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
SIDES = st.sampled_from([1, 2, 127, 128, 129, 255, 256, 257, 300]) | st.integers(1, 400)
ANY_FLOAT = st.integers(0, 2**32 - 1).map(lambda n: struct.unpack("<f", struct.pack("<I", n))[0])
SPECIAL = st.sampled_from(
    [0.0, -0.0, -1.0, 2.0**-149, 2.0**-127, 255.9, 256.0, 3e38, -3e38, np.inf, -np.inf, np.nan]
)
# Those whose products with any code BF16 holds: the others cannot be quantized again.
TAME = st.sampled_from([0.0, -1.0, 2.0**-149, 2.0**-127, 256.0, 1e35]) | st.floats(-1, 1, width=32)
Tensors = dict[str, torch.Tensor]


@st.composite
def kernels(draw: st.DrawFn) -> str:
    return draw(st.sampled_from(["numpy", native.kernel()]))


@st.composite
def layouts(draw: st.DrawFn, tensors: Tensors) -> dict[str, Tensors]:
    """The tensors in one to four shards, each anywhere."""
    count = draw(st.integers(1, 4))
    shards: dict[int, Tensors] = {}
    for name, tensor in tensors.items():
        shards.setdefault(draw(st.integers(0, count - 1)), {})[name] = tensor
    return {f"model-{n:05d}-of-{count:05d}.safetensors": held for n, held in shards.items()}


@contextmanager
def converted(model: Layout, kernel: str, to: str, **options: object) -> Iterator[Tensors]:
    """All tensors of the output."""
    before = os.environ.get("FLAGDEPLOY_KERNEL")
    os.environ["FLAGDEPLOY_KERNEL"] = kernel
    try:
        with tempfile.TemporaryDirectory() as name:
            source = model.write(Path(name) / "source")
            out = dequant(source, to, workers=2, **options).folder  # type: ignore[arg-type]
            files = [load_file(path) for path in sorted(out.glob("*.safetensors"))]
            yield {name: tensor for file in files for name, tensor in file.items()}
    finally:
        del os.environ["FLAGDEPLOY_KERNEL"]
        if before is not None:
            os.environ["FLAGDEPLOY_KERNEL"] = before


def pair(
    draw: st.DrawFn, shape: tuple[int, int], scales: st.SearchStrategy[float], nan: bool
) -> tuple[np.ndarray, np.ndarray]:
    codes = np.random.default_rng(draw(st.integers(0, 2**32))).integers(0, 256, shape, np.uint8)
    if not nan:
        codes[codes & 0x7F == 0x7F] = 0
    across = -(-shape[0] // 128), -(-shape[1] // 128)
    return codes, draw(npst.arrays(np.float32, across, elements=scales))


def fp8(codes: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(codes).view(torch.float8_e4m3fn)


def raw(tensor: torch.Tensor, dtype: type) -> np.ndarray:
    """A tensor's bits."""
    return tensor.contiguous().view(torch.uint8).numpy().view(dtype)


@settings(max_examples=25)
@given(st.data(), st.sampled_from(["bf16", "fp16", "fp32"]), kernels())
def test_fp8_blocks_to_plain_numbers(data: st.DataObject, to: str, kernel: str) -> None:
    tensors, expected = Tensors(), {}
    for number in range(data.draw(st.integers(1, 4))):
        name, shape = f"model.layers.{number}.w.weight", data.draw(st.tuples(SIDES, SIDES))
        codes, scales = pair(data.draw, shape, ANY_FLOAT | SPECIAL, nan=True)
        tensors |= {name: fp8(codes), name + SCALE: torch.from_numpy(scales)}
        full = expanded(scales, (128, 128), shape)
        expected[name] = bits(dequantized(codes, full, to), to)
    layout = Layout(data.draw(layouts(tensors)), {"num_hidden_layers": 9} | FP8)
    with converted(layout, kernel, to) as got:
        assert got.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(raw(got[name], values.dtype.type), values)


@settings(max_examples=25)
@given(st.data(), kernels())
def test_bf16_to_fp8_blocks(data: st.DataObject, kernel: str) -> None:
    tensors, expected = Tensors(), {}
    for number in range(data.draw(st.integers(1, 3))):
        name, shape = (
            f"model.layers.{number}.mlp.up_proj.weight",
            data.draw(st.tuples(SIDES, SIDES)),
        )
        chance = np.random.default_rng(data.draw(st.integers(0, 2**32)))
        pattern = chance.integers(0, 1 << 16, shape, np.uint16)
        pattern[pattern & 0x7F80 == 0x7F80] = 0
        pattern[: data.draw(st.sampled_from([0, 128]))] &= 0x8000
        values = (pattern.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        tensors[name] = torch.from_numpy(pattern.view(np.int16)).view(torch.bfloat16)
        expected[name] = fp8_blocks(values)
    layout = Layout(data.draw(layouts(tensors)), {"num_hidden_layers": 9})
    with converted(layout, kernel, "fp8") as got:
        for name, (stored, scales) in expected.items():
            codes = raw(got[name], np.uint8)
            np.testing.assert_array_equal(dequantized(codes, np.ones(()), "fp32"), stored)
            np.testing.assert_array_equal(np.signbit(stored), codes >> 7)
            np.testing.assert_array_equal(raw(got[name + SCALE], np.float32), scales)


@settings(max_examples=25)
@given(st.data(), st.sampled_from(["trtllm", "vllm"]), kernels())
def test_fp8_blocks_to_w4afp8(data: st.DataObject, layout: str, kernel: str) -> None:
    tensors, expected = Tensors(), {}
    parts = [(layer, name) for layer in (0, 1) for name in ("gate", "up", "down")]
    for layer, part in parts[: data.draw(st.integers(1, len(parts)))]:
        name = EXPERT.format(layer, 0, part)
        shape = data.draw(SIDES), 128 * data.draw(st.integers(1, 3))
        codes, scales = pair(data.draw, shape, TAME, nan=False)
        tensors |= {name: fp8(codes), name + SCALE: torch.from_numpy(scales)}
        plain = dequantized(codes, expanded(scales, (128, 128), shape), "bf16")
        expected[name] = int4_groups(plain)
    config = {"num_hidden_layers": 2, "first_k_dense_replace": 0} | FP8
    given_scales = {"act_scales": 1.0} if layout == "trtllm" else {}
    checkpoint = Layout(data.draw(layouts(tensors)), config)
    with converted(checkpoint, kernel, "w4afp8", layout=layout, **given_scales) as got:
        for name, (numbers, scales) in expected.items():
            low, high = numbers[:, 0::2] & 15, numbers[:, 1::2] & 15
            packed = (low | high << 4).astype(np.uint8)
            if layout == "trtllm":
                np.testing.assert_array_equal(raw(got[name], np.uint8), packed)
                np.testing.assert_array_equal(raw(got[name + SCALE], np.float32), scales)
                continue
            np.testing.assert_array_equal(raw(got[f"{name}_packed"], np.uint8), packed ^ 0x88)
            stored = raw(got[f"{name}_scale"], np.uint16)
            rounded_scales = dequantized(np.uint8(0x38), scales, "bf16")
            np.testing.assert_array_equal(stored, bits(rounded_scales, "bf16"))
            assert got[f"{name}_shape"].tolist() == list(numbers.shape)
