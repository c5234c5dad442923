"""``python -m soak.operators_gpu_model DIR``: the tiny DeepSeek-V3 without its NaN token."""

import sys
from pathlib import Path

from safetensors.torch import load_file, save_file
from server.tiny_checkpoint import POISON, SPECIALS, write_tiny_checkpoint


def write(directory: Path) -> None:
    write_tiny_checkpoint(directory)
    weights = directory / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.embed_tokens.weight"][len(SPECIALS) + ord(POISON)] = 0
    save_file(tensors, weights, {"format": "pt"})


if __name__ == "__main__":
    write(Path(sys.argv[1]))
