"""Safetensors files without numpy, which the images of the proving ground do not hold."""

import json
from pathlib import Path

Tensor = tuple[str, list[int], bytes]


def read(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint: (dtype, shape, bytes) by name."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    tensors = {}
    for shard in sorted(set(index.values())):
        data = (folder / shard).read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        for name, entry in json.loads(data[8:start]).items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                tensors[name] = (entry["dtype"], entry["shape"], data[start + begin : start + end])
    return tensors


def write(path: Path, tensors: dict[str, Tensor]) -> None:
    header, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    head = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for _, _, data in tensors.values():
            file.write(data)
