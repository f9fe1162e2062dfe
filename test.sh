#!/usr/bin/env bash
# Runs the tests, in a virtual environment of its own: ./test.sh [pytest options]
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"

. local/venv.sh
make_venv "$PWD"
# The Triton kernels of mamba-ssm, which need no compiler and which Triton can interpret on a CPU.
if ! "$PYTHON" -c 'import einops, sys, importlib.util as u; sys.exit(u.find_spec("mamba_ssm") is None)' 2> /dev/null; then
  pip=("$PYTHON" -m pip install --quiet --disable-pip-version-check)
  if ! { "${pip[@]}" einops==0.8.2 setuptools wheel packaging ninja &&
    MAMBA_FORCE_BUILD=TRUE MAMBA_SKIP_CUDA_BUILD=TRUE "${pip[@]}" --no-deps --no-build-isolation mamba-ssm==2.3.2.post1; }; then
    echo "mamba-ssm cannot be installed here (see above): the test of its kernels is skipped"
  fi
fi
# What runs exported models. It is optional, too.
if ! "$PYTHON" -c 'import importlib.util as u, sys; sys.exit(None in map(u.find_spec, ("onnx", "onnxruntime", "sherpa_onnx", "openvino", "nncf")))' \
  2> /dev/null && ! "$PYTHON" -m pip install --quiet --disable-pip-version-check -r requirements-deploy.txt; then
  echo "requirements-deploy.txt cannot be installed here (see above): the tests of exported models are skipped"
fi
# The server, and the client that it must be understood by.
if ! "$PYTHON" -c 'import importlib.util as u, sys; sys.exit(None in map(u.find_spec, ("starlette", "uvicorn", "openai")))' \
  2> /dev/null && ! "$PYTHON" -m pip install --quiet --disable-pip-version-check -r requirements-serve.txt openai==3.57.0; then
  echo "requirements-serve.txt cannot be installed here (see above): the tests of sammo serve are skipped"
fi
# One process a core, one thread each: threads of several processes that wait for each other are slow.
export OMP_NUM_THREADS=1 PYTHONUTF8=1
exec "$PYTHON" -m pytest -q -n auto --dist loadfile --durations=10 "$@"
