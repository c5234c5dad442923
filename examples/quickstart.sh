#!/usr/bin/env bash
# From a checkpoint to a verdict on this machine, with nothing but Python 3.11:
# pull > dequant > serve > compare, on the small DeepSeek-R1 that ships with flagdeploy.
#   bash examples/quickstart.sh              ends in PASS
#   bash examples/quickstart.sh --corrupt    damages one expert on purpose; FAIL, exit code 1
# Further arguments override keys of the deployment, e.g. endpoint.port=8001.
# The environment is .venv beside the sources, or $FLAGDEPLOY_VENV.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${FLAGDEPLOY_VENV:-.venv}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
if ! "$venv/bin/python" -c 'import flagdeploy.cli.app, torch, transformers' 2>/dev/null; then
    echo "installing flagdeploy into $venv (PyTorch and transformers take a few minutes)" >&2
    "$venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0
    "$venv/bin/pip" install --quiet --disable-pip-version-check --editable '.[pytorch]'
fi
PATH=$(cd "$venv/bin" && pwd):$PATH

corrupt=
if [ "${1:-}" = --corrupt ]; then
    corrupt=yes
    shift
fi
step() { printf '\n$ %s\n' "$*" >&2; "$@"; }

step flagdeploy pull tiny_deepseek_r1 --ckpt examples/tiny_deepseek_r1/checkpoint
step flagdeploy dequant tiny_deepseek_r1 --to bf16
if [ "$corrupt" ]; then
    step python examples/tiny_deepseek_r1/corrupt.py models/tiny_deepseek_r1-bf16 models/tiny_deepseek_r1-corrupt
    set -- model.checkpoint=models/tiny_deepseek_r1-corrupt "$@"
fi
trap 'step flagdeploy stop tiny_deepseek_r1' EXIT
step flagdeploy serve tiny_deepseek_r1 "$@"
step flagdeploy compare tiny_deepseek_r1 --baseline h200
