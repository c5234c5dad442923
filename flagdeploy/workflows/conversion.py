"""What a conversion is asked to do, and the plan that follows: the same wherever it runs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flagdeploy.checkpoint.act_scales import read_act_scales
from flagdeploy.checkpoint.folder import list_files
from flagdeploy.checkpoint.verify import verify
from flagdeploy.errors import UsageError
from flagdeploy.plans.conversion import TARGETS, W4afp8Options, plan_conversion
from flagdeploy.plans.conversion_plan import ConversionPlan
from flagdeploy.plans.w4afp8 import LAYOUTS


@dataclass(frozen=True)
class Conversion:
    """The options of `flagdeploy.dequant` on which the numbers of the output depend."""

    to: str = "bf16"
    drop_mtp: bool = False
    layout: str | None = None
    act_scales: str | Path | float | None = None
    parts: int | None = None

    def __post_init__(self) -> None:
        """Raises UsageError for unknown values and options that do not go together."""
        if self.to not in TARGETS:
            raise UsageError(f"--to {self.to}: unknown format", f"known are {', '.join(TARGETS)}")
        given = {"--layout": self.layout, "--act-scales": self.act_scales, "--parts": self.parts}
        for option, value in given.items():
            trtllm = option == "--layout" or self.layout in (None, "trtllm")
            if value is not None and (self.to != "w4afp8" or not trtllm):
                what = "the vllm layout" if self.to == "w4afp8" else f"--to {self.to}"
                raise UsageError(f"{option}: has no meaning for {what}", f"leave {option} out")
        if self.layout not in (None, *LAYOUTS):
            raise UsageError(f"--layout {self.layout}: unknown", f"known are {', '.join(LAYOUTS)}")
        if self.parts is not None and self.parts < 1:
            raise UsageError(f"--parts {self.parts}: there must be one at least")
        if self.to == "w4afp8" and self.layout != "vllm" and self.act_scales is None:
            raise UsageError(
                "--to w4afp8: needs the activation scales of the experts",
                "record them (flagdeploy calibrate --prompts FILE), give a published file or "
                "Model-Optimizer's folder with --act-scales, or one number for all experts, such "
                "as --act-scales 1.0, which costs accuracy",
            )

    def arguments(self) -> list[str]:
        """These options as `flagdeploy dequant` takes them."""
        scales = self.act_scales
        if scales is not None and not _is_number(scales):
            scales = Path(str(scales)).absolute()
        given = {"--layout": self.layout, "--act-scales": scales, "--parts": self.parts}
        words = [(option, str(value)) for option, value in given.items() if value is not None]
        drop = ["--drop-mtp"] if self.drop_mtp else []
        return ["--to", self.to, *drop, *(word for pair in words for word in pair)]

    def target(self, source: Path, out: str | Path | None) -> Path:
        """The output folder: `out`, else beside the source with ``-bf16`` (and so on) appended."""
        named = source if source.name not in ("", "..") else source.resolve()
        target = Path(out) if out else named.with_name(f"{named.name}-{self.to}")
        if target.resolve() == source.resolve():
            raise UsageError(
                f"--out {target} is the checkpoint itself", "give another folder, or --in-place"
            )
        return target

    def plan(self, source: Path, target: Path | None = None) -> ConversionPlan:
        """Verify the source and plan; CheckpointError when it is damaged or cannot be converted.

        What lies under `target`, a folder inside the source, is no file of the source.
        """
        options = W4afp8Options(self.layout or "trtllm", self._scales(), self.parts or 9)
        whole = verify(source).require()
        files = {name: (source / name).stat().st_mtime_ns for name in list_files(source)}
        if target and target.resolve().is_relative_to(source.resolve()):
            nested = target.resolve().relative_to(source.resolve()).as_posix() + "/"
            files = {name: ns for name, ns in files.items() if not name.startswith(nested)}
        return plan_conversion(whole, files, self.to, options, drop_mtp=self.drop_mtp)

    def _scales(self) -> Mapping[str, float] | float:
        if self.act_scales is not None and not _is_number(self.act_scales):
            return read_act_scales(Path(str(self.act_scales)))
        number = float(str(1.0 if self.act_scales is None else self.act_scales))
        if not 0 < number < math.inf:
            raise UsageError(
                f"--act-scales {self.act_scales}: is not a scale", "give a positive number"
            )
        return number


def _is_number(text: object) -> bool:
    try:
        float(str(text))
    except ValueError:
        return False
    return True
