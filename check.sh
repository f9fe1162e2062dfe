#!/usr/bin/env bash
# Lint and format: ./check.sh [files or folders]; `ruff check --fix` and `ruff format` put most findings right. Types: ./check.sh --types.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"

ruff=0.14.6 pyright=1.34.0
types=false
if [ "${1:-}" = --types ]; then types=true && shift; fi
. local/venv.sh
make_venv "$PWD"
have() { "$PYTHON" -c 'import sys, importlib.metadata as m; sys.exit(m.version(sys.argv[1]) != sys.argv[2])' "$1" "$2" 2> /dev/null; }
install() { "$PYTHON" -m pip install --quiet --disable-pip-version-check "$1==$2"; }
if $types; then  # not clean yet, and so no part of continuous integration
  have basedpyright $pyright || install basedpyright $pyright
  exec "$PYTHON" -m basedpyright "$@"
fi
have ruff $ruff || install ruff $ruff
"$PYTHON" -m ruff check "${@:-.}"
exec "$PYTHON" -m ruff format --check "${@:-.}"
