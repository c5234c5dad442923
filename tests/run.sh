#!/usr/bin/env bash
# Installs what the tests need and runs all of them. Arguments go to pytest.
#   bash tests/run.sh                 everything
#   bash tests/run.sh tests/config    a part
# The environment is .venv beside the sources, or $FLAGDEPLOY_VENV. As root on Debian the parts for
# the real fleet (sshd, Docker engine, vLLM on CPU) are installed too; elsewhere its tests are
# skipped, and the last lines say how many and why.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${FLAGDEPLOY_VENV:-.venv}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
stamp=$venv/.flagdeploy-tests
built_from=(pyproject.toml hatch_build.py flagdeploy/checkpoint/*.c)
if [ ! -e "$stamp" ] || [ -n "$(find "${built_from[@]}" -newer "$stamp")" ]; then
    echo "installing flagdeploy and what its tests need into $venv" >&2
    "$venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0
    "$venv/bin/pip" install --quiet --disable-pip-version-check --editable '.[pytorch,ray,test]'
    touch "$stamp"
fi

if [ "$(id -u)" = 0 ] && [ -e /etc/debian_version ]; then
    bash tests/proving_ground/setup.sh
    [ $# -gt 0 ] || PYTHON=$venv/bin/python bash tests/proving_ground/vllm_cpu.sh >/dev/null
fi
exec "$venv/bin/python" -m pytest --numprocesses "$(nproc)" --dist loadgroup \
    --no-loadscope-reorder "$@"
