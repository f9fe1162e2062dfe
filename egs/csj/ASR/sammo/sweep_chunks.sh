#!/usr/bin/env bash
# Decodes trained models over chunk widths, left contexts, methods and averages, in parallel, then reports. See --help.
set -euo pipefail

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
export PYTHON=${PYTHON:-python3} PYTHONPATH=$here/../../../..${PYTHONPATH:+:$PYTHONPATH}

exp_dirs=
chunk_sizes=16,32,64,128
left_contexts=64,128,256
methods=modified_beam_search
avgs=1
epoch=0
parts=valid,tests
streaming=false
out_dir=report
jobs=

usage() {
  cat <<END
Usage: sweep_chunks.sh --exp-dirs "DIR ..." [options] [-- options of decode.py]

One run of decode.py for each of the experiments (Sammo with several d_state, Zipformer, ...), methods, averages and chunk
widths; what is done already is skipped, so an interrupted sweep can be resumed. Of several averages, the report takes the one
that is best on the part valid.

  --exp-dirs "DIR ..."        directories of train.py
  --chunk-sizes N,N           frames of 20 ms (default: $chunk_sizes)
  --left-contexts N,N         frames of 20 ms, for Zipformer (default: $left_contexts)
  --methods "NAME ..."        greedy_search, modified_beam_search, fast_beam_search (default: $methods)
  --epoch N                   last epoch (default: the newest checkpoint)
  --avgs "N ..."              averages to try (default: $avgs)
  --parts PART,PART           (default: $parts)
  --streaming                 chunk by chunk by streaming_decode.py instead of simulated by decode.py
  --jobs N                    runs at a time (default: the number of GPUs, or of cores if there is none)
  --out-dir DIR               where the report goes (default: $out_dir)
END
}

. "$here/../../../../local/options.sh"
parse_options "exp-dirs chunk-sizes left-contexts methods avgs epoch parts jobs out-dir" streaming "$@"
options=("${rest[@]}")
[ -n "$exp_dirs" ] || die "--exp-dirs is needed; see --help"
for dir in $exp_dirs; do
  [ -d "$dir" ] || die "no experiment directory $dir; run train.py with this --exp-dir first"
done

# Those that CUDA_VISIBLE_DEVICES leaves, or all.
export gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true)
[ "$gpus" -eq 0 ] || export devices=${CUDA_VISIBLE_DEVICES-$(seq -s , 0 $((gpus - 1)))}
[ -n "${devices:-}" ] && gpus=$(tr ',' '\n' <<< "$devices" | wc -l) || gpus=0
if [ -z "$jobs" ]; then
  jobs=$([ "$gpus" -gt 0 ] && echo "$gpus" || count_cores)
fi
script=$here/decode.py
! $streaming || script=$here/streaming_decode.py
[ "$gpus" -gt 0 ] || export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# Runs one job, LOG COMMAND...; the slot of xargs chooses the GPU.
run_job() {
  local log=$1
  shift
  [ "$gpus" -eq 0 ] || export CUDA_VISIBLE_DEVICES=$(cut -d , -f $((SLOT % gpus + 1)) <<< "$devices")
  if "$PYTHON" "$@" > "$log" 2>&1; then
    echo "done: $log"
  else
    echo "FAILED: $(tail -n 1 "$log") (all of it: $log)" >&2
    return 1
  fi
}
export -f run_job

list=$(mktemp)
trap 'rm -f "$list"' EXIT
for dir in $exp_dirs; do
  mkdir -p "$dir/sweep"
  for method in $methods; do
    for avg in $avgs; do
      for chunk in ${chunk_sizes//,/ }; do
        printf '%s\0' "$dir/sweep/$($streaming && echo streaming || echo simulated)-$method-avg-$avg-chunk-$chunk.log" "$script" \
          --exp-dir "$dir" --epoch "$epoch" --avg "$avg" --decoding-method "$method" --chunk-size "$chunk" \
          --left-context-frames "$left_contexts" --parts "$parts" --res-dir "$dir/results" "${options[@]}" >> "$list"
      done
    done
  done
done
words=$((18 + ${#options[@]}))
echo "$(($(tr -cd '\0' < "$list" | wc -c) / words)) runs, $jobs at a time"
failed=false
xargs -0 -n "$words" -P "$jobs" --process-slot-var=SLOT bash -c 'run_job "$@"' run_job < "$list" || failed=true
if $failed; then
  echo "error: some runs failed (see above); the same command resumes with them" >&2
  exit 1
fi
dirs=()
for dir in $exp_dirs; do dirs+=("$dir/results"); done
"$PYTHON" -m sammo.cli report "${dirs[@]}" --out-dir "$out_dir"
