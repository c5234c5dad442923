"""Stands in for the server of Tenstorrent's fork of vLLM: reads the cache, answers completions."""

import argparse
import http.server
import json
import os
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--model")
parser.add_argument("--host")
parser.add_argument("--port", type=int)
args, _ = parser.parse_known_args()

model, cache = Path(os.environ["DEEPSEEK_V3_HF_MODEL"]), Path(os.environ["DEEPSEEK_V3_CACHE"])
config = json.loads((model / "config.json").read_text())
assert os.environ["TT_CACHE_PATH"] == str(cache)
assert os.environ["MESH_DEVICE"] == "(4,8)"
assert "quantization_config" not in config, "BF16 weights would be read as FP8"
layers = f"{config['num_hidden_layers']}_layers"
cached = json.loads((cache / layers / "mesh_4x8" / "config.json").read_text())
assert Path(cached["w1"]["path"]).stat().st_size == 1024, "the cache is not where it was made"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"choices": [{"text": "2"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


http.server.ThreadingHTTPServer((args.host, args.port), Handler).serve_forever()
