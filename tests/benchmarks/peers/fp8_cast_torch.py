"""The published conversion, on a CPU: what flagdeploy's is measured against.

    python fp8_cast_torch.py SOURCE TARGET

Algorithm of DeepSeek-V3's inference/fp8_cast_bf16.py, whose Triton kernel needs a GPU: every shard
is loaded whole, each FP8 weight becomes FP32, is multiplied by its scale blown up to full size and
cast to BF16; a scale in another shard makes that one be loaded too; two shards are kept.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

SCALE = "_scale_inv"


def main(source: Path, target: Path) -> None:
    target.mkdir()
    index = json.loads((source / "model.safetensors.index.json").read_text())["weight_map"]
    loaded: dict[str, dict[str, torch.Tensor]] = {}

    def shard(name: str) -> dict[str, torch.Tensor]:
        if name not in loaded:
            loaded[name] = load_file(source / name)
        return loaded[name]

    for path in sorted(source.glob("*.safetensors")):
        converted = {}
        for name, tensor in shard(path.name).items():
            if name.endswith(SCALE):
                continue
            if tensor.element_size() == 1:
                tensor = dequantized(tensor, shard(index[name + SCALE])[name + SCALE])
            converted[name] = tensor
        save_file(converted, target / path.name)
        while len(loaded) > 2:
            del loaded[next(iter(loaded))]
    kept = {name: file for name, file in index.items() if not name.endswith(SCALE)}
    text = json.dumps({"metadata": {}, "weight_map": kept}, indent=2)
    (target / "model.safetensors.index.json").write_text(text)


def dequantized(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    rows, columns = weight.shape
    full = scale.repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :columns]
    return (weight.float() * full).bfloat16()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
