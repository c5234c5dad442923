"""Which plan makes what a checkpoint is into what is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass

from flagdeploy.checkpoint.formats import recognise
from flagdeploy.checkpoint.fp8 import TARGETS as PLAIN
from flagdeploy.checkpoint.verify import Verification
from flagdeploy.plans.compressed_tensors import FORMATS, plan_compressed_tensors
from flagdeploy.plans.conversion_plan import ConversionPlan
from flagdeploy.plans.dequant import plan_dequant
from flagdeploy.plans.four_bit import plan_four_bit
from flagdeploy.plans.fp8 import plan_fp8
from flagdeploy.plans.recipes import all_tensors
from flagdeploy.plans.w4afp8 import plan_w4afp8

TARGETS = (*PLAIN, "fp8", "w4afp8")
_FOUR_BIT = ("mxfp4", "w4afp8")


@dataclass(frozen=True)
class W4afp8Options:
    """What w4afp8 needs to know besides the checkpoint: see `plan_w4afp8`."""

    layout: str = "trtllm"
    act_scales: Mapping[str, float] | float = 1.0
    parts: int = 9


def plan_conversion(
    checkpoint: Verification,
    files: Mapping[str, int],
    to: str,
    options: W4afp8Options,
    *,
    drop_mtp: bool = False,
) -> ConversionPlan:
    """Plan the conversion `to` one of TARGETS; CheckpointError when there is no way."""
    if to == "w4afp8":
        return plan_w4afp8(
            checkpoint,
            files,
            layout=options.layout,
            act_scales=options.act_scales,
            parts=options.parts,
            drop_mtp=drop_mtp,
        )
    if to == "fp8":
        return plan_fp8(checkpoint, files, drop_mtp=drop_mtp)
    found = recognise(checkpoint.config, all_tensors(checkpoint))
    if found.name in _FOUR_BIT:
        return plan_four_bit(checkpoint, files, found, to, drop_mtp=drop_mtp)
    if found.name in FORMATS:
        return plan_compressed_tensors(checkpoint, files, found, to, drop_mtp=drop_mtp)
    return plan_dequant(checkpoint, files, found, to, drop_mtp=drop_mtp)
