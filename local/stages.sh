# Sourced by the prepare.sh of every recipe: messages, and stages that are skipped when they are done.
# Reads $stage, $stop_stage, $nj, $lang_type, $vocab_sizes and $python.

command_line="${0##*/} $*"

log() {
  echo "$(date '+%Y-%m-%d %H:%M:%S') (${0##*/}) $*"
}

. "${BASH_SOURCE[0]%/*}/options.sh"

# The options that all recipes have, and what their stages need.
check_stages() { # corpus
  check_options "stage stop_stage nj" '[0-9]{1,9}' "a number"
  [ "$nj" -ge 1 ] && [ "$nj" -le 1024 ] || die "--nj must be 1 to 1024 processes, got $nj"
  check_options lang_type '((char|bpe)( |$))*' "char, bpe or both"
  check_options vocab_sizes '[0-9 ]*' "numbers"
  local find_packages='from importlib.util import find_spec as f; import sys; sys.exit(not all(map(f, sys.argv[1:])))'
  "$python" -c "$find_packages" lhotse torch sentencepiece lilcom ||
    die "$python lacks lhotse, torch, sentencepiece or lilcom: pip install -r requirements.txt, or set PYTHON"
  lang_type=${lang_type:-$("$python" -m sammo.corpora unit "$1")}
}

# Two runs in one directory would write the same files: the second ends here and is told who the first is. The lock is
# this shell's and its children's, by descriptor 9, so that it ends with the last of them.
lock_directory() { # directory
  mkdir -p "$1"
  exec 9<> "$1/.lock"
  "$python" -m sammo.lock 9 "$1" $$ "$command_line" || exit 1
}

# A stage is done when its marker, written last, holds the options that its result depends on and is not older than
# the marker of the stage whose results it reads.
is_done() { # marker key upstream-marker
  [ -f "$1" ] && [ "$(cat "$1")" = "$2" ] && ! [ "$3" -nt "$1" ]
}
mark_done() { # marker key
  printf '%s\n' "$2" > "$1.tmp"
  mv "$1.tmp" "$1"
}
run_stage() { # number title upstream-marker marker key command...
  local number=$1 title=$2 upstream=$3 marker=$4 key=$5
  shift 5
  if [ "$stage" -gt "$number" ] || [ "$stop_stage" -lt "$number" ]; then return 0; fi
  if is_done "$marker" "$key" "$upstream"; then
    log "Stage $number: $title: done already ($marker)"
    return 0
  fi
  log "Stage $number: $title"
  mkdir -p "$(dirname "$marker")"
  rm -f "$marker"
  "$@"
  mark_done "$marker" "$key"
}
checksum() { cat "$@" | cksum | tr ' ' '-'; }
