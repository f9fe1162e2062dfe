#!/usr/bin/env bash
# Everything that a GPU can tell, in one table: see --help.
set -euo pipefail

root=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
. "$root/local/options.sh"
device=cuda
preset=medium
seconds=540
data=

usage() {
  cat << END
Usage: benchmarks/gpu.sh OUT [options]

Runs in at most 9 minutes, without internet. Writes OUT/NAME.txt of every part, OUT/gpu.json and OUT/gpu.md, one line a
part. A part that is done, or that failed, is not run again by the same command (remove OUT/NAME.code for that); what does
not fit into the time is left to the next one, which finds the compiled kernels in OUT/triton. On a new machine compiling those
takes some minutes of the first training part.

Options:
  --device cuda|cpu         cpu is a rehearsal, with --preset tiny (default: $device)
  --preset medium|tiny      (default: $preset)
  --seconds N               how long it may take (default: $seconds)
  --data DIR                losses on the corpus in DIR, as of ./run.sh in work/data (default: one that is made up)
END
}

out=
case ${1:-} in
  --help | -h | "") ;;
  -*) die "the first argument is the directory of results, got $1; see --help" ;;
  *) out=$1 && shift ;;
esac
parse_options "device preset seconds data" "" "$@"
[ -n "$out" ] || { usage >&2 && exit 1; }
check_options device 'cuda|cpu' "cuda or cpu"
check_options seconds '[0-9]{1,9}' "a number"
[ -z "$data" ] || [ -d "$data/fbank" ] || die "no $data/fbank: --data takes what prepare.sh has written"
[ -z "$data" ] && data=() || data=(--data "$(readlink -f "$data")")
mkdir -p "$out"
out=$(readlink -f "$out")
cd "$root"
python=${PYTHON:-python3}
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PYTORCH_ALLOC_CONF=${PYTORCH_ALLOC_CONF:-expandable_segments:True}
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$out/triton}
end=$((SECONDS + seconds))

# part NAME LIMIT COMMAND...: with a limit in seconds, and no longer than what is left; @TIME@ is most of that.
part() {
  local name=$1 limit=$2 left=$((end - SECONDS)) code=0 begin=$SECONDS
  shift 2
  [ ! -e "$out/$name.code" ] || return 0
  [ "$left" -ge 10 ] || { echo "no time left for $name" && return 0; }
  # A rehearsal may run beside anything, and its times say nothing.
  [ "$device" = cuda ] && [ "$limit" -le "$left" ] || limit=$left
  set -- "${@//@TIME@/$((limit * 4 / 5))}"
  echo "$name: $*"
  # Training saves when it is asked to end; here it need not.
  timeout -k 2 "$limit" "$@" > "$out/$name.txt" 2>&1 || code=$?
  [ "$code" -eq 0 ] || [ $((SECONDS - begin)) -lt "$limit" ] || {
    echo "$name: not done in $limit s; the next call goes on"
    return 0
  }
  echo "$code $((SECONDS - begin)) $*" > "$out/$name.code"
}

engine=triton durations="650 2600" vocabulary=3266 steps=12 sizes=() repeats=5 curve=300 decoding=()
if [ "$device" = cpu ]; then
  engine=native durations=12 vocabulary=60 steps=1 sizes=(--frames 20 --symbols 5 --rows sammo) repeats=1
  curve=6 decoding=(--utterances 2 --streams 2 --seconds 2)
fi
part doctor 90 "$python" -m sammo.cli doctor --device "$device"
for duration in $durations; do
  part "training-$duration" 300 "$python" benchmarks/training.py --device "$device" --preset "$preset" \
    --vocab-size "$vocabulary" --max-duration "$duration" --steps "$steps" --max-seconds @TIME@
done
part tests 150 "$python" -m pytest -q -m gpu -p no:cacheprovider tests
part loss 40 "$python" benchmarks/loss.py --device "$device" --engine "$engine" --vocab-sizes "$vocabulary" \
  --repeats "$repeats" "${sizes[@]}"
part optimizer 40 "$python" benchmarks/optim.py --device "$device" --preset "$preset" --vocab-size "$vocabulary" \
  --encoder sammo
part decoding 150 "$python" benchmarks/decoding.py --device "$device" --preset "$preset" --vocab-size "$vocabulary" "${decoding[@]}"
part curve 120 "$python" benchmarks/curve.py --device "$device" --steps "$curve" --out "$out/curve" "${data[@]}"
"$python" benchmarks/gpu_report.py "$out"
