#!/usr/bin/env bash
# Build the environment in which the GenEval service runs on mmdet. mmcv's operators are compiled for this machine's
# torch (with CUDA, set FORCE_CUDA=1), which takes some ten minutes on two cores; the wheel is kept and used again.
#
#   services/geneval/mmdet/build.sh [.venv-mmdet]
set -euo pipefail
cd "$(dirname "$0")/../../.."
venv=${1:-.venv-mmdet}
wheels=${WHEELS:-$venv/wheels}
pip="$venv/bin/pip --quiet --disable-pip-version-check"

test -x "$venv/bin/python" || "${PYTHON:-python3.11}" -m venv "$venv"
$pip install torch==2.13.0
$pip install 'setuptools<81' wheel ninja numpy
if ! ls "$wheels"/mmcv-2.1.0-*.whl > /dev/null 2>&1; then
    echo "compiling mmcv 2.1.0 on ${MAX_JOBS:-$(nproc)} cores"
    PATH="$PWD/$venv/bin:$PATH" MMCV_WITH_OPS=1 FORCE_CUDA=${FORCE_CUDA:-0} MAX_JOBS=${MAX_JOBS:-$(nproc)} \
        $pip wheel --no-deps --no-build-isolation mmcv==2.1.0 -w "$wheels"
fi
$pip install "$wheels"/mmcv-2.1.0-*.whl -r services/geneval/mmdet/requirements.txt
$pip install -c constraints.txt -e '.[serving]' 'setuptools<81'
"$venv/bin/python" -c 'import mmcv.ops, mmdet; print("mmdet", mmdet.__version__, "is ready in", "'"$venv"'")'
