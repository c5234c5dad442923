#!/usr/bin/env bash
# Record a baseline bundle on a machine with an accelerator:
#   bash env/baselines/record_gpu.sh OUT.jsonl.gz [MODEL] [DEVICE]
# MODEL is a folder under examples/ (default tiny_deepseek_r1), DEVICE a torch device (default cuda).
# The checkpoint is dequantized to BF16 and served in FP32 by the pytorch engine, so that the
# recording holds the model and as little else as possible. Everything is asked twice, 16 and 64 at
# once; the distance between the two is stored as the noise floor.
# Needs Python 3.11 with torch, transformers, aiohttp, numpy, typer and pyyaml.
set -euo pipefail
out=$(realpath -m "${1:?usage: record_gpu.sh OUT.jsonl.gz [MODEL] [DEVICE]}")
model=${2:-tiny_deepseek_r1}
device=${3:-cuda}
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
port=${PORT:-8123}
work=$(mktemp -d)
server=

finish() {
    if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap finish EXIT

"$python" -m flagdeploy dequant --ckpt "examples/$model/checkpoint" --to bf16 --out "$work/bf16"
"$python" -m flagdeploy.server --model "$work/bf16" --served-model-name "$model" \
    --device "$device" --dtype float32 --port "$port" --max-num-seqs 64 2>"$work/server.log" &
server=$!

"$python" - "$port" "$server" <<'PY' || { cat "$work/server.log" >&2; exit 1; }
import os, sys, time, urllib.request
port, server = map(int, sys.argv[1:])
while True:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).read()
        break
    except OSError:
        os.kill(server, 0)  # ends the wait when the server is gone
        time.sleep(0.5)
PY

facts=$("$python" - "$device" <<'PY'
import platform, sys, torch, transformers
name = torch.cuda.get_device_name() if sys.argv[1].startswith("cuda") else platform.processor() or "CPU"
print(name, torch.__version__, transformers.__version__, sep="\n")
PY
)
{ read -r name; read -r torch; read -r transformers; } <<<"$facts"
"$python" -m flagdeploy baseline record "http://127.0.0.1:$port" \
    --benchmarks "examples/$model" --checkpoint "examples/$model/checkpoint" --out "$out" \
    --concurrency 16,64 --fact "device=$name" --fact engine=pytorch --fact dtype=float32 \
    --fact "torch=$torch" --fact "transformers=$transformers"
ls -l "$out"
