#!/bin/sh
# FlagGems, unmodified, under the model in the box on one NVIDIA GPU: find what it cannot live with,
# serve it with the rest, measure whose kernels run, and compare it with native operators.
#
#   tests/soak/flaggems_gpu.sh OUT [bisect|serve|compare] ...        all three by default
#
# Needs torch, triton, transformers, typer, omegaconf, pyyaml, aiohttp, and flag_gems with
# sqlalchemy and greenlet on PYTHONPATH. OUT keeps every command's output; what is large or of use on
# this machine alone (compiled kernels, runs, the model) lies in $WORK. A stage that was cut off goes
# on where it stopped. BUDGET are the seconds that `bisect` and `compare` may take each.
set -eu
[ $# -ge 1 ] || { echo "usage: $0 OUT [bisect|serve|compare] ..." >&2; exit 2; }
out=$(realpath -m "$1"); shift
here=$(realpath "$(dirname "$0")/../..")
PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONPATH PYTHONUNBUFFERED=1
: "${JOBS:=8}" "${BUDGET:=500}" "${WORK:=/tmp/flaggems-gpu}" "${DEVICE:=cuda}" "${VENDOR:=nvidia}"
: "${LIMIT:=100}" "${ONLY:=}"
mkdir -p "$out" "$WORK/workspace" "$WORK/profile"
FLAGDEPLOY_HOME=$WORK/workspace
export FLAGDEPLOY_HOME
examples=$FLAGDEPLOY_HOME/examples
model=$FLAGDEPLOY_HOME/models/tiny_deepseek_r1-bf16
flagdeploy() { python3 -m flagdeploy "$@"; }

# Runs a command, keeps what it prints and how it ended, and the time it took.
keep() {
    name=$1; shift
    printf '$ flagdeploy %s\n' "$*" >"$out/$name.txt"
    began=$(date +%s) status=0
    timeout --signal=INT --kill-after=20 "$BUDGET" python3 -m flagdeploy "$@" \
        >>"$out/$name.txt" 2>"$out/$name.progress" || status=$?
    printf '(exit code %s, %s s)\n' "$status" "$(($(date +%s) - began))" >>"$out/$name.txt"
    cat "$out/$name.txt"
    [ "$status" = 0 ] || tail -n 15 "$out/$name.progress"
    return 0
}

prepare() {
    [ ! -d "$model" ] || return 0
    for folder in env examples hostfiles; do cp -r "$here/$folder" "$FLAGDEPLOY_HOME/"; done
    cp -r "$examples/tiny_deepseek_r1" "$examples/tiny_native"
    [ -z "${VENDOR_YAML:-}" ] || cp "$VENDOR_YAML" "$FLAGDEPLOY_HOME/env/vendors/"
    flagdeploy dequant --ckpt "$examples/tiny_deepseek_r1/checkpoint" --to bf16 --out "$model" -q
    python3 - "$DEVICE" >"$out/versions.txt" <<'PY'
import importlib.metadata as versions, sys, torch
for name in ("flag_gems", "torch", "triton", "transformers"):
    try:
        print(name, versions.version(name))
    except versions.PackageNotFoundError:
        print(name, "as on PYTHONPATH")
print(torch.cuda.get_device_name() if sys.argv[1] == "cuda" else sys.argv[1])
PY
}

bisect() {
    keep bisect ops bisect --ckpt "$model" --device "$DEVICE" --dtype bfloat16 --jobs "$JOBS" \
        --silent 150 --timeout 300 ${ONLY:+--only "$ONLY"} --out "$WORK/bisect"
    for file in operators.yaml operators.json trials.jsonl; do
        [ ! -e "$WORK/bisect/$file" ] || cp "$WORK/bisect/$file" "$out/"
    done
}

serve() {
    variant=$examples/tiny_deepseek_r1/serve/flaggems_gpu.yaml
    { cat "$examples/tiny_deepseek_r1/serve/gpu.yaml" "$WORK/bisect/operators.yaml"; } >"$variant"
    set -- "vendor=$VENDOR" "torch_device=$DEVICE" "container.env.TRITON_CACHE_DIR=$WORK/bisect/triton"
    # a library that is asked for and not installed: nothing may come up
    path=$PYTHONPATH
    PYTHONPATH=$here${SITE:+:$SITE}
    keep serve_without_library serve tiny_deepseek_r1 flaggems_gpu "$@" operators.compare_native=false
    PYTHONPATH=$path
    keep serve serve tiny_deepseek_r1 flaggems_gpu "$@" "profiler.folder=$WORK/profile" \
        "operators.config.cache_dir=$WORK/bisect/tuning-0"
    # the second profile is the one that counts: the first tunes kernels for the shapes of the requests
    keep coverage_first ops coverage tiny_deepseek_r1 --requests 8 --max-tokens 32
    keep coverage ops coverage tiny_deepseek_r1 --requests 8 --max-tokens 32
    cp "$(find "$FLAGDEPLOY_HOME/runs" -path '*coverage-*' -name coverage.json | sort | tail -n 1)" \
        "$out/coverage.json" || true
    keep serve_native serve tiny_native gpu "$@" endpoint.port=8001 model.served_name=tiny_deepseek_r1 \
        "model.checkpoint=$model"
}

compare() {
    keep compare compare tiny_deepseek_r1 --baseline http://127.0.0.1:8001 --limit "$LIMIT" \
        --benchmarks "$examples/tiny_deepseek_r1" --record "$WORK/compare" --mode S \
        --report "$out/compare.md" --json "$out/compare.json"
    for rank in "$FLAGDEPLOY_HOME"/runs/local/*; do
        [ ! -d "$rank" ] || tail -n 40 "$rank/log" >"$out/$(basename "$rank").log"
        for log in "$rank"/flaggems_oplist.*; do [ ! -e "$log" ] || cp "$log" "$out/oplist.log"; done
    done
}

prepare
for stage in "${@:-bisect serve compare}"; do
    for one in $stage; do "$one"; done
done
