# Sourced by the run.sh of every recipe: an experiment of two encoders. Reads $device, $cores and $work_dir.

# Runs a function for both encoders: on CPUs side by side, which is faster for small models than threads are.
both() { # function first second
  local run=$1 first=$2 second=$3 log=$work_dir/$1-$3.log
  if [ "$device" = cuda ] || { [ "$device" = auto ] && command -v nvidia-smi > /dev/null; } || [ "$cores" -lt 2 ]; then
    "$run" "$first"
    "$run" "$second"
    return
  fi
  echo "   $second runs beside $first; what it prints is in $log"
  OMP_NUM_THREADS=$((cores / 2)) "$run" "$second" > "$log" 2>&1 &
  local pid=$!
  OMP_NUM_THREADS=$((cores / 2)) "$run" "$first"
  kill -0 $pid 2> /dev/null && echo "   $first is done; $second:" && tail -n 1 -f --pid=$pid "$log"
  wait $pid || die "$second failed: $(tail -n 1 "$log") (all of it: $log)"
}
trap 'jobs -p | xargs -r kill 2> /dev/null || true' EXIT
