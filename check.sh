#!/usr/bin/env bash
# Lint and types: ./check.sh [files or folders]. ruff --fix and ruff format put most findings right.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"

ruff=0.14.6 pyright=1.34.0
. local/venv.sh
make_venv "$PWD"
have() { "$PYTHON" -c 'import sys, importlib.metadata as m; sys.exit(m.version(sys.argv[1]) != sys.argv[2])' "$1" "$2" 2> /dev/null; }
have ruff $ruff && have basedpyright $pyright ||
  "$PYTHON" -m pip install --quiet --disable-pip-version-check ruff==$ruff basedpyright==$pyright
"$PYTHON" -m ruff check "${@:-.}"
"$PYTHON" -m basedpyright "$@"
