"""Copy a BF16 checkpoint and damage one expert, to see that `flagdeploy compare` notices.

    python corrupt.py SOURCE TARGET [--layer 1] [--expert 0]

The sign of every weight in the expert's down projection is flipped: sizes, norms and file layout
stay as they were, so nothing but the answers can tell.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np

from flagdeploy.checkpoint.index import read_index
from flagdeploy.checkpoint.safetensors_file import read_header

BF16_SIGN = np.uint16(0x8000)


def corrupt(source: Path, target: Path, layer: int, expert: int) -> str:
    """Write the damaged copy to `target`, replacing it, and return the tensor's name."""
    name = f"model.layers.{layer}.mlp.experts.{expert}.down_proj.weight"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    shard = target / read_index(target).weight_map[name]
    header = read_header(shard)
    tensor = header.tensors[name]
    if tensor.dtype != "BF16":
        raise SystemExit(f"{name} is {tensor.dtype}, not BF16: dequantize the checkpoint first")
    offset = header.data_start + tensor.begin
    weights = np.memmap(shard, np.uint16, "r+", offset, (tensor.nbytes // 2,))
    weights ^= BF16_SIGN
    weights.flush()
    return name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--layer", type=int, default=1)
    parser.add_argument("--expert", type=int, default=0)
    options = parser.parse_args()
    name = corrupt(options.source, options.target, options.layer, options.expert)
    print(f"flipped the sign of {name} in {options.target}")


if __name__ == "__main__":
    main()
