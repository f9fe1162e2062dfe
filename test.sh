#!/usr/bin/env bash
# Runs the tests, in a virtual environment of its own: ./test.sh [pytest options]
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"

. local/venv.sh
make_venv "$PWD"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} PYTHONUTF8=1
exec "$PYTHON" -m pytest -q --durations=10 "$@"
