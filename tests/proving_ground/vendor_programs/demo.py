"""Stands in for tt-metal's DeepSeek demo: fills the weight cache, then generates a token."""

import argparse
import json
import os
from pathlib import Path

MESHES = {"TG": "4x8", "DUAL": "8x8", "QUAD": "16x8"}

parser = argparse.ArgumentParser()
parser.add_argument("prompts", nargs="+")
parser.add_argument("--model-path", type=Path, required=True)
parser.add_argument("--cache-dir", type=Path, required=True)
parser.add_argument("--max-new-tokens", type=int, default=32)
args = parser.parse_args()

config = json.loads((args.model_path / "config.json").read_text())
mesh = MESHES[os.environ["MESH_DEVICE"]]
cache = args.cache_dir / f"{config['num_hidden_layers']}_layers" / f"mesh_{mesh}"
(cache / "weights").mkdir(parents=True)
(cache / "weights" / "w1.tensorbin").write_bytes(bytes(1024))
# Earlier versions wrote absolute paths here.
where = {"w1": {"path": str(cache / "weights" / "w1.tensorbin")}}
(cache / "config.json").write_text(json.dumps(where))
print(f"cached {args.model_path} in {cache}", flush=True)
