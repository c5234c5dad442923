"""Damage checkpoints on purpose, and read what verify says of it."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from flagdeploy.checkpoint.safetensors_file import read_header
from flagdeploy.workflows.verify import VerifyResult


def rewrite(folder: Path, shard: str, **changes: torch.Tensor) -> None:
    """Replace tensors of a shard."""
    tensors = load_file(folder / shard)
    save_file(tensors | changes, folder / shard, metadata={"format": "pt"})


def flip(path: Path, offset: int, mask: int = 1) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ mask]))


def place(folder: Path, name: str) -> tuple[Path, int]:
    """The file of a tensor and where in it its data starts."""
    for path in folder.glob("*.safetensors"):
        header = read_header(path)
        if name in header.tensors:
            return path, header.data_start + header.tensors[name].begin
    raise KeyError(name)


def kinds(result: VerifyResult) -> list[tuple[str, str]]:
    return [(finding.kind, finding.file) for finding in result.findings]
