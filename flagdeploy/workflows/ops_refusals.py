"""What `flagdeploy ops bisect` refuses before it runs anything, and why."""

import math
from collections.abc import Collection, Sequence
from importlib.util import find_spec
from pathlib import Path

from flagdeploy.errors import CheckpointError, UsageError, did_you_mean


def require_sense(
    only: Sequence[str] | None, max_kl: float | None, max_slowdown: float, *seconds: float
) -> None:
    """Raises UsageError for what would judge nothing, or everything alike."""
    if only is not None and not only:
        raise UsageError("--only names no operator", "leave it out to look at all of them")
    bounds = {"--max-kl": max_kl or 0.0, "--max-slowdown": max_slowdown}
    for name, value in bounds.items():
        if not (math.isfinite(value) and value >= 0):
            raise UsageError(f"{name} {value:g}: is no bound", "a number from 0 on")
    for name, value in zip(("--silent", "--timeout"), seconds, strict=True):
        if not value > 0:
            raise UsageError(f"{name} {value:g}: is no time", "seconds, more than 0")


def require_checkpoint(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder}: is no folder of a checkpoint: it has no config.json",
            "flagdeploy pull fetches one, flagdeploy dequant makes one of plain weights",
        )


def require_installed(library: str) -> None:
    if find_spec("torch") is None or find_spec("transformers") is None:
        raise UsageError(
            "ops bisect runs the model in the pytorch engine, which is not installed",
            "it is an extra: pip install 'flagdeploy[pytorch]'",
        )
    if find_spec(library) is None:
        raise UsageError(f"{library} is not installed", "pip install --no-deps flag-gems")


def require_known(only: Sequence[str], library: str, known: Collection[str], folder: Path) -> None:
    if unknown := sorted(set(only) - set(known)):
        hint = did_you_mean(unknown[0], list(known))
        # all of its hundreds of names would bury the one that is wrong
        listed = f"{folder / 'library.json'} lists those that it has"
        raise UsageError(
            f"--only {', '.join(unknown)}: {library} has no such operator",
            hint if hint.startswith("did") else listed,
        )
