#!/usr/bin/env bash
# Runs the tests, in a virtual environment of its own: ./test.sh [pytest options]
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"

. local/venv.sh
make_venv "$PWD"
. local/optional.sh
install_optional
# One process a core, one thread each: threads of several processes that wait for each other are slow.
export OMP_NUM_THREADS=1 PYTHONUTF8=1
exec "$PYTHON" -m pytest -q -n auto --dist loadfile --durations=10 "$@"
