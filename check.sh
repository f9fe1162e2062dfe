#!/usr/bin/env bash
# Lint, format and types. ./check.sh FILES: lint and format of these alone; ./check.sh --types [FILES]: types alone.
# `ruff check --fix` and `ruff format` put most findings of the first two right.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"

ruff=0.14.6 pyright=1.34.0
. local/venv.sh
make_venv "$PWD"
need() {  # PACKAGE VERSION
  "$PYTHON" -c 'import sys, importlib.metadata as m; sys.exit(m.version(sys.argv[1]) != sys.argv[2])' "$@" 2> /dev/null ||
    "$PYTHON" -m pip install --quiet --disable-pip-version-check "$1==$2"
}
check_types() {
  . local/optional.sh
  install_optional
  need basedpyright $pyright
  "$PYTHON" -m basedpyright --pythonpath "$PYTHON" "$@"
}

if [ "${1:-}" = --types ]; then
  check_types "${@:2}"
  exit
fi
need ruff $ruff
"$PYTHON" -m ruff check "${@:-.}"
"$PYTHON" -m ruff format --check "${@:-.}"
[ $# -gt 0 ] || check_types
