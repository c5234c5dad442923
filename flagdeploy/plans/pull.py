"""Plan a pull: which files of a repository make the checkpoint, and how many bytes they are."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from flagdeploy.checkpoint.folder import is_sane, is_weight
from flagdeploy.checkpoint.ownership import RECORD
from flagdeploy.errors import CheckpointError
from flagdeploy.records.sizes import readable


@dataclass(frozen=True)
class PullPlan:
    """`files` and `left_out` map names to bytes."""

    source: str
    files: Mapping[str, int]
    left_out: Mapping[str, int]

    @property
    def total_bytes(self) -> int:
        return sum(self.files.values())

    def __str__(self) -> str:
        lines = [f"pull {self.source}: {len(self.files)} files, {readable(self.total_bytes)}"]
        if self.left_out:
            size = readable(sum(self.left_out.values()))
            lines.append(f"  left out, {size}: {', '.join(self.left_out)}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "files": dict(self.files),
            "left_out": dict(self.left_out),
            "total_bytes": self.total_bytes,
        }


def plan_pull(source: str, files: Mapping[str, int]) -> PullPlan:
    """Choose the safetensors checkpoint at the top of a repository and everything beside it.

    Left out are hidden files and second copies of the weights: other frameworks' containers, those
    in folders (``original/``, ``metal/``) and ``consolidated*``. Raises CheckpointError when a name
    would leave the folder or when there are no safetensors at all.
    """
    for name in files:
        if not is_sane(name):
            raise CheckpointError(f"{source}: refuses the file name {name!r}: it leaves the folder")
    chosen = {name: files[name] for name in sorted(files) if _wanted(name)}
    if not any(name.endswith(".safetensors") for name in chosen):
        raise CheckpointError(
            f"{source}: holds no safetensors weights", "flagdeploy works on safetensors checkpoints"
        )
    left_out = {name: size for name, size in sorted(files.items()) if name not in chosen}
    left_out.pop(RECORD, None)
    return PullPlan(source, chosen, left_out)


def _wanted(name: str) -> bool:
    path = PurePosixPath(name)
    if name == RECORD or any(part.startswith(".") for part in path.parts):
        return False
    if not is_weight(name):
        return True
    top = len(path.parts) == 1
    return top and path.suffix == ".safetensors" and not name.startswith("consolidated")
