"""Plan W4AFP8: routed experts to INT4 in groups of 128, everything else as it is.

Two layouts of the same integers (w4afp8_layouts.py): ``trtllm``, with activation scales in
``act_scales.safetensors`` and with hf_quant_config.json and quant_cfg.json, and ``vllm``.
A multi-token prediction layer keeps its precision, or is dropped.
"""

import re
from collections.abc import Mapping
from functools import partial

from flagdeploy.checkpoint.formats import Format, recognise
from flagdeploy.checkpoint.int4 import GROUP
from flagdeploy.checkpoint.verify import Verification
from flagdeploy.errors import CheckpointError
from flagdeploy.plans import w4afp8_config
from flagdeploy.plans.assembly import assemble
from flagdeploy.plans.conversion_plan import ConversionPlan
from flagdeploy.plans.mtp import hidden_layers, without_mtp
from flagdeploy.plans.pairs import check_pairs
from flagdeploy.plans.plain_config import plain_config, plain_note
from flagdeploy.plans.problems import refuse_all
from flagdeploy.plans.recipes import Source, all_tensors
from flagdeploy.plans.w4afp8_layouts import check_vllm_scales, for_trtllm, for_vllm, trtllm_shards

LAYOUTS = ("trtllm", "vllm")
ACT_SCALES = "act_scales.safetensors"
_EXPERT = re.compile(
    r"model\.layers\.(\d+)\.mlp\.experts\.(\d+)\.(gate_proj|down_proj|up_proj)\.weight"
)
_INPUT = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}


def plan_w4afp8(
    checkpoint: Verification,
    files: Mapping[str, int],
    *,
    layout: str = "trtllm",
    act_scales: Mapping[str, float] | float = 1.0,
    parts: int = 9,
    drop_mtp: bool = False,
) -> ConversionPlan:
    """Plan the quantization of a whole FP8 block or BF16 checkpoint.

    `act_scales` (``trtllm`` only) maps ``model.layers.L.mlp.experts.E.w1.input_scale`` and so on to
    values, or is one value for all. Raises CheckpointError for another format, a checkpoint
    without routed experts, experts whose input dimension is no multiple of 128, act scales that
    are missing or differ between w1 and w3 of an expert.
    """
    tensors = all_tensors(checkpoint)
    found = recognise(checkpoint.config, tensors)
    _require(checkpoint, found)
    if found.block:
        check_pairs(checkpoint, tensors, found.block)
    layers = hidden_layers(checkpoint)
    source = Source(checkpoint, without_mtp(checkpoint, tensors) if drop_mtp else tensors)
    experts = _experts(source, layers)
    given = act_scales if isinstance(act_scales, float) else sorted(act_scales.items())
    options = [drop_mtp, layout, given, parts]
    details = partial(
        assemble, checkpoint, files, found, "w4afp8", options=options, verb="quantized"
    )
    if layout == "vllm":
        check_vllm_scales(source)
        config = w4afp8_config.compressed_tensors(source.tensors, experts, found.block)
        edited = plain_config(checkpoint.config, "bf16", drop_mtp) | {"quantization_config": config}
        note = "quantization_config of compressed-tensors"
        cook = partial(for_vllm, source, set(experts), found.block)
        return details(source.by_shard(), cook, edited, config_note=note)
    inputs = _act_scales(checkpoint, experts, act_scales)
    return details(
        trtllm_shards(source, layers, parts) | {ACT_SCALES: list(inputs)},
        partial(for_trtllm, source, set(experts), found.block, inputs),
        plain_config(checkpoint.config, "bf16", drop_mtp),
        config_note=plain_note("bf16"),
        written={
            "hf_quant_config.json": w4afp8_config.HF_QUANT_CONFIG,
            "quant_cfg.json": w4afp8_config.quant_cfg(checkpoint.config, source.tensors, layers),
        },
    )


def _require(checkpoint: Verification, found: Format) -> None:
    if found.block is None and found.name != "bf16":
        raise CheckpointError(
            f"{checkpoint.index.folder}: is in {found}, which cannot be converted to w4afp8",
            "w4afp8 is made of FP8 e4m3 in scaled blocks or of BF16",
        )


def _experts(source: Source, layers: int) -> dict[str, re.Match[str]]:
    """The weights to quantize: routed experts of the hidden layers."""
    matches = {name: match for name in source.tensors if (match := _EXPERT.fullmatch(name))}
    experts = {name: match for name, match in matches.items() if int(match[1]) < layers}
    if not experts:
        raise CheckpointError(
            f"{source.checkpoint.index.folder}: has no routed experts "
            "(model.layers.L.mlp.experts.E.gate_proj.weight and so on): nothing to quantize",
            "w4afp8 quantizes the experts of mixture-of-experts models",
        )
    problems = []
    for name in experts:
        tensor = source.tensors[name]
        if tensor.dtype not in ("F8_E4M3", "BF16"):
            problems.append(f"{name}: is {tensor.dtype}, not FP8 or BF16")
        elif len(tensor.shape) != 2 or tensor.shape[1] % GROUP:
            problems.append(f"{name}: shape {list(tensor.shape)}: no groups of {GROUP} inputs")
    refuse_all(
        source.checkpoint,
        "experts that cannot be quantized",
        problems,
        f"W4AFP8 kernels need an input dimension that is a multiple of {GROUP}",
    )
    return experts


def _act_scales(
    checkpoint: Verification,
    experts: Mapping[str, re.Match[str]],
    given: Mapping[str, float] | float,
) -> dict[str, float]:
    """``input_scale`` F32 [1] of w1 (gate), w2 (down) and w3 (up) of every quantized expert."""
    values: dict[str, float] = {}
    problems = []
    for match in experts.values():
        prefix = f"model.layers.{match[1]}.mlp.experts.{match[2]}."
        name = f"{prefix}{_INPUT[match[3]]}.input_scale"
        value = given if isinstance(given, float) else given.get(name)
        if value is None:
            problems.append(f"{name}: is missing")
            continue
        values[name] = value
        twin = values.get(f"{prefix}{'w1' if match[3] == 'up_proj' else 'w3'}.input_scale")
        if match[3] != "down_proj" and twin is not None and abs(twin - value) > 1e-5 * value:
            problems.append(f"{prefix}w1 and w3: differ, though they share their input")
    hint = "flagdeploy calibrate records them; or give one number for all: --act-scales 1.0"
    refuse_all(checkpoint, "activation scales that do not fit", problems, hint)
    return values
