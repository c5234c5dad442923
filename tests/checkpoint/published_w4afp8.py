"""W4AFP8 as the published script computes it, in torch: the reference for bits and for speed.

Algorithm of TensorRT-LLM's examples/quantization/quantize_mixed_precision_moe.py: FP8 blocks are
dequantized in FP32 and rounded to BF16, groups of 128 inputs share the scale ``max / 7``, quotients
are rounded to nearest even, and two integers share a byte. Ragged rows are padded here, and a group
of zeros has the scale 1.
"""

import torch

BLOCK = GROUP = 128


def bf16_of_fp8(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """[out, in] in BF16, of FP8 and its FP32 scales."""
    full = scale.float().repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
    return (weight.float() * full[: weight.shape[0], : weight.shape[1]]).bfloat16()


def quantize(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The integers, int8 [out, in], and FP32 scales [out, in / 128] of BF16 weights."""
    groups = weight.float().view(weight.shape[0], -1, GROUP)
    scale = groups.abs().amax(dim=2) / 7
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    numbers = torch.round(groups / scale[..., None]).clamp(-8, 7).to(torch.int8)
    return numbers.view(weight.shape), scale


def pack(numbers: torch.Tensor) -> torch.Tensor:
    """int8 [out, in / 2]: the even element in the low half, two's complement."""
    low, high = numbers[:, 0::2] & 0x0F, numbers[:, 1::2] << 4
    return low | high


def pack_for_compressed_tensors(numbers: torch.Tensor) -> torch.Tensor:
    """int32 [out, in / 8]: eight times q + 8, the first element lowest."""
    eight = (numbers.long() + 8).view(numbers.shape[0], -1, 8)
    words = (eight << torch.arange(0, 32, 4)).sum(dim=2)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)
