#!/bin/sh
# The operators of FlagGems that a tiny DeepSeek-V3 cannot live with, on a real GPU, in 8 minutes.
#
#   tests/soak/operators_gpu.sh OUT
#
# Needs torch, triton, transformers, typer, pyyaml, and flag_gems with sqlalchemy and greenlet on
# PYTHONPATH. Run again with the same OUT it goes on where it stopped. OUT keeps trials.jsonl, a
# verdict, a log of operators and stderr for each trial, operators.yaml and operators.json.
set -eu
[ $# -eq 1 ] || { echo "usage: $0 OUT" >&2; exit 2; }
out=$(realpath -m "$1")
here=$(realpath "$(dirname "$0")/../..")
PYTHONPATH="$here:$here/tests${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONPATH OMP_NUM_THREADS=1
: "${JOBS:=8}" "${BUDGET:=460}" "${MAX_SLOWDOWN:=0}"
mkdir -p "$out"
python3 - >"$out/versions.txt" <<'PY'
import torch, triton, transformers
print("torch", torch.__version__, "triton", triton.__version__, "transformers", transformers.__version__)
print(torch.cuda.get_device_name())
PY
# Compiled kernels stay on the machine: they are large, and of use there alone.
work=${WORK:-/tmp/operators-gpu}
mkdir -p "$work"
[ -d "$work/model" ] || python3 -m soak.operators_gpu_model "$work/model"
[ ! -f "$out/trials.jsonl" ] || cp -n "$out"/*.jsonl "$out"/native.npy "$work"/ 2>/dev/null || true
status=0
timeout --signal=INT --kill-after=15 "$BUDGET" python3 -m flagdeploy ops bisect \
  --ckpt "$work/model" --device cuda --dtype bfloat16 --jobs "$JOBS" \
  --max-slowdown "$MAX_SLOWDOWN" --silent 150 --timeout 300 --out "$work" \
  >"$out/result.txt" 2>"$out/progress.txt" || status=$?
find "$work" -maxdepth 1 -type f ! -name '*.beat' -exec cp {} "$out"/ \;
cat "$out/result.txt"
tail -n 5 "$out/progress.txt"
exit $status
