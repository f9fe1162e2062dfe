# Sourced by run.sh and test.sh: makes .venv beside them if it is missing or out of date, sets PYTHON.
# SAMMO_PYTHON names the interpreter to make it with.

make_venv() {
  local root=$1 candidate base= want
  for candidate in ${SAMMO_PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      base=$candidate
      break
    fi
  done
  if [ -z "$base" ]; then
    echo "error: no Python 3.10 or newer found; install one or name it: SAMMO_PYTHON=/path/to/python3 $0" >&2
    return 1
  fi
  PYTHON=$root/.venv/bin/python
  want=$(cat "$root/requirements.txt" "$root/setup.py" | "$base" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read() + sys.version.encode()).hexdigest())')
  if [ "$(cat "$root/.venv/sammo-requirements" 2>/dev/null)" = "$want" ]; then
    return 0
  fi
  echo "Making the virtual environment .venv with $("$base" --version) (a few minutes, once)"
  if ! "$PYTHON" -m pip --version > /dev/null 2>&1; then
    rm -rf "$root/.venv"
  fi
  if [ ! -d "$root/.venv" ] && ! "$base" -m venv "$root/.venv"; then
    rm -rf "$root/.venv"
    echo "error: '$base -m venv' failed; install the venv module (on Debian: apt-get install python3-venv)" >&2
    return 1
  fi
  if ! { "$PYTHON" -m pip install --quiet --disable-pip-version-check -r "$root/requirements.txt" &&
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-deps --editable "$root"; }; then
    echo "error: installing requirements.txt into .venv failed (see above); run $0 again to retry" >&2
    return 1
  fi
  echo "$want" > "$root/.venv/sammo-requirements"
}
