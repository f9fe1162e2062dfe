#!/usr/bin/env bash
# Every table and figure of RESULTS.md from nothing: corpora, trainings, decodings, reports. See --help.
set -euo pipefail

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
root=$(cd "$here/../../../.." && pwd)
. "$root/local/venv.sh"

scale=cpu
seeds=3
tables="main halved state mixers carried memory homophones"
work_dir=reproduce
data_dir=
epochs=
jobs=
plan=false
collect=
logs=

usage() {
  cat <<END
Usage: reproduce.sh [options]

Trains and decodes all systems that RESULTS.md compares, with several seeds, and rebuilds its tables. Each step is done
once: interrupted anywhere, the same command resumes. A training that fails or diverges is reported at the end and left out
of no table without a word.

  --scale cpu|gpu      cpu: preset tiny on the synthetic corpus; gpu: preset medium on --data-dir (default: $scale)
  --seeds N            of the main comparison (default: $seeds); everything else has one
  --tables "NAME ..."  main: Sammo, Zipformer, Conformer; halved: the first seed of main chunk by chunk with states of 16
                       bits; state: d_state 8, 16, 64; mixers: none, nla, gated_delta without left context, none, mamba2,
                       gated_delta with it; carried: Sammo with its last epochs on utterances apart, and joined without
                       noise between; memory: all first seeds with parts of their memory removed, and in talks of an hour; homophones: all first
                       seeds on words that another decides up to 20 s before (not on a --data-dir without that part)
                       (default: $tables)
  --work-dir DIR       everything is written below it (default: $work_dir)
  --data-dir DIR       prepared by prepare.sh (default for cpu: made here)
  --epochs N           for every training (default: 15 on cpu, 40 on gpu)
  --jobs N             trainings at a time (default: the number of GPUs, or of cores if there is none)
  --plan               says what would be done and what it costs, and ends
  --collect DIR        copies the small files that the tables are made of there, and ends
  --logs DIR           trains and decodes nothing: the tables of error rates from what decode.py wrote below DIR, for instance
                       the results that lie beside RESULTS.md, or what --collect copied
END
}

. "$root/local/options.sh"
parse_options "scale seeds tables work-dir data-dir epochs jobs collect logs" plan "$@"
check_options scale "cpu|gpu" "cpu or gpu"
check_options seeds '[1-9][0-9]?' "1 to 99"
check_options "epochs jobs" '|[1-9][0-9]*' "a whole number above 0"
check_options tables '((main|halved|state|mixers|carried|memory|homophones)( |$))*' \
  "main, halved, state, mixers, carried, memory or homophones, or several"

# What has no results below the directory of experiments is left out of the tables.
decoded() { # result directories -> those of them that have any
  local directory
  for directory; do ! compgen -G "$directory/cer-*.json" > /dev/null || echo "$directory"; done
}
report_errors() { # directory of experiments
  local table own directories overlap=() status=0
  [ ! -f "$data_dir/fbank/statistics.json" ] || overlap=(--statistics "$data_dir/fbank/statistics.json")
  for table in $tables; do
    case $table in
      main) own=("$1"/main/*/*/results) directories=("${own[@]}") ;;
      halved) own=("$1"/main/*/seed1/halved) directories=("${own[@]}" "$1"/main/*/seed1/results) ;;
      memory | homophones) continue ;; # of the other tables' systems
      *) own=("$1/$table"/*/seed1/results) directories=("${own[@]}" "$1"/main/*/seed1/results) ;;
    esac
    if [ -z "$(decoded "${own[@]}")" ]; then
      echo "no results of $table"
      continue
    fi
    mapfile -t directories < <(decoded "${directories[@]}")
    "$PYTHON" -m sammo.cli report "${directories[@]}" "${overlap[@]}" --out-dir "$work_dir/report/$table" --pool-seeds > /dev/null ||
      { echo "no report on $table" && status=1; }
  done
  return "$status"
}

if [ -n "$logs" ]; then
  [ ! -d "$logs/exp" ] || logs=$logs/exp
  [ -d "$logs/main" ] || die "--logs $logs: no directory main in it; name the results beside RESULTS.md, or what --collect wrote"
  make_venv "$root"
  export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PYTHONUTF8=1
  report_errors "$logs" || exit 1
  echo "tables and figures: $work_dir/report"
  exit 0
fi

. "$root/local/budget.sh"
chunks=16,32,64,128,256
lefts=16,32,64,128,256
if [ "$scale" = cpu ]; then
  preset=tiny device=cpu minutes=70 # of one core a training: 60 to 100 on three machines, both cores busy
  epochs=${epochs:-15}
  jobs=${jobs:-$(count_cores)}
  budget=("${small[@]}")
  average=1
else
  preset=medium device=cuda minutes=
  epochs=${epochs:-40}
  [ -n "$data_dir" ] || die "--scale gpu needs --data-dir, a corpus prepared by prepare.sh"
  command -v nvidia-smi > /dev/null || $plan || die "--scale gpu needs a GPU, and there is no nvidia-smi"
  jobs=${jobs:-$(nvidia-smi --list-gpus 2> /dev/null | wc -l)}
  jobs=$((jobs > 0 ? jobs : 1))
  budget=(--max-duration 2600 --precision bf16 --ctc-loss-scale 0.2)
  average=9
fi

budget+=(--long-form-from-epoch "$(last_two "$epochs")")
other_end=(--may-change concatenate-cuts,duration-factor,gap,noise-only-share,leading-silence)

# name|options of train.py: one line a training. Left contexts are those of training, so that all of them can be decoded at.
attends=(--left-context-frames "$lefts,-1")
systems() {
  local seed size mixer stream="${joined[*]} ${noise[*]}"
  if [[ " $tables " == *" main "* ]]; then
    for seed in $(seq "$seeds"); do
      echo "main/sammo/seed$seed|--encoder sammo --seed $seed $stream"
      echo "main/zipformer/seed$seed|--encoder zipformer --seed $seed $stream ${attends[*]}"
    done
    for seed in $(seq "$seeds"); do
      echo "main/conformer/seed$seed|--encoder conformer --seed $seed $stream ${attends[*]}"
    done
  fi
  if [[ " $tables " == *" state "* ]]; then
    for size in 8 16 64; do echo "state/sammo-$size/seed1|--encoder sammo --d-state $size --seed 1 $stream"; done
  fi
  if [[ " $tables " == *" mixers "* ]]; then
    for mixer in none nla gated_delta; do echo "mixers/$mixer/seed1|--encoder sammo --mixer $mixer --seed 1 $stream"; done
    for mixer in none mamba2 gated_delta; do
      echo "mixers/$mixer-left/seed1|--encoder zipformer --mixer $mixer --seed 1 $stream ${attends[*]}"
    done
  fi
  if [[ " $tables " == *" carried "* ]]; then
    echo "carried/apart/seed1|--encoder sammo --seed 1 ${other_end[*]}"
    echo "carried/joined/seed1|--encoder sammo --seed 1 ${joined[*]} ${other_end[*]}"
  fi
}

count=$(systems | wc -l)
[[ " $tables " != *" halved "* || " $tables " == *" main "* ]] || die "--tables halved needs main"
[ "$count" -gt 0 ] || die "--tables $tables needs another one, whose first seeds it takes"
echo "$count trainings of preset $preset, $epochs epochs, $jobs at a time; everything goes to $work_dir"
if [ -n "$minutes" ]; then
  # Decoding takes about a quarter of the time of 15 epochs; voices are synthesized in 40 minutes of one core.
  carried=$(systems | grep -c '^carried/' || true)
  [[ " $tables " == *" main "* ]] || carried=0
  total=$((count * (minutes * epochs / 15 + minutes / 4) - carried * minutes * ($(last_two "$epochs") - 1) / 15))
  echo "about $(((total / jobs + 40 / jobs + 59) / 60)) h on idle cores like those of benchmarks/README.md"
fi
if $plan; then
  systems | tr '|' '\t'
  exit 0
fi

mkdir -p "$work_dir"
work_dir=$(cd "$work_dir" && pwd)

collect_files() {
  mkdir -p "$1"
  (cd "$work_dir" && find exp report \( -name 'cer-*.json' -o -name '*.md' -o -name memory.json -o -name timing.json -o -name homophones.json \
    -o -name endurance*.json -o -name '*.png' -o -name '*.csv' \) -print0 2> /dev/null | tar --null -cf - --files-from=-) |
    tar -xf - -C "$1"
  du -sh "$1"
}
if [ -n "$collect" ]; then
  collect_files "$collect"
  exit 0
fi

[ -z "$data_dir" ] || data_dir=$(cd "$data_dir" && pwd)
make_venv "$root"
export PYTHON PYTHONUTF8=1 PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
if [ -z "$data_dir" ]; then
  data_dir=$work_dir/data
  echo "== Corpus in $data_dir"
  "$root/prepare.sh" --corpus mini --data-dir "$data_dir" --hours 2 --eval-minutes 40 --perturb-speed false \
    --homophones true > "$work_dir/prepare.log" || die "preparation failed; see the end of $work_dir/prepare.log"
fi

probe=$data_dir/fbank/csj_cuts_homophones.jsonl.gz

# Until its last epochs, Sammo of the table carried is that of main: what is trained of the one is taken for the other.
share_beginning() { # experiment
  local number
  [ ! -f "$1/epoch-1.pt" ] || return 0
  for number in $(seq $(($(last_two "$epochs") - 1))); do
    ln "$work_dir/exp/main/sammo/seed1/epoch-$number.pt" "$1" 2> /dev/null || return 0
  done
}

# One system from training to error rates; what is done already is skipped by the commands themselves.
run_system() { # name, options
  local exp=$work_dir/exp/$1 log=$work_dir/logs/${1//\//-}.log
  mkdir -p "$exp" "$work_dir/logs"
  case $1 in carried/*) share_beginning "$exp" ;; esac
  local data=(--manifest-dir "$data_dir/fbank" --lang "$data_dir/lang_char" --device "$device") model
  # shellcheck disable=SC2086 # the options of a system are words
  "$PYTHON" "$here/train.py" --preset "$preset" --exp-dir "$exp" --num-epochs "$epochs" "${data[@]}" "${budget[@]}" $2 \
    >> "$log" 2>&1 || return 1
  model=(--exp-dir "$exp" --epoch "$epochs" --avg "$average" "${data[@]}")
  "$PYTHON" "$here/decode.py" "${model[@]}" --decoding-method modified_beam_search --beam-size 4 --chunk-size "$chunks" \
    --left-context-frames "$lefts" --parts tests --res-dir "$exp/results" >> "$log" 2>&1 || return 1
  [ "${1%/seed1}" != "$1" ] || return 0
  if [[ " $tables " == *" memory "* ]]; then
    [ -f "$exp/memory/memory.json" ] ||
      "$PYTHON" -m sammo.cli memory "${model[@]}" --chunk-size 16,64 >> "$log" 2>&1 || return 1
    [ -f "$exp/endurance/endurance.json" ] ||
      "$PYTHON" -m sammo.cli endurance "${model[@]}" --chunk-size 32 --left-context-frames 128 >> "$log" 2>&1 || return 1
  fi
  if [[ " $tables " == *" homophones "* && -f $probe ]]; then
    "$PYTHON" "$here/decode.py" "${model[@]}" --decoding-method modified_beam_search --beam-size 4 --chunk-size 16,64 \
      --left-context-frames "$lefts" --parts homophones --res-dir "$exp/homophones" >> "$log" 2>&1 || return 1
  fi
  [[ " $tables " == *" halved "* && "$1" == main/* ]] || return 0
  "$PYTHON" "$here/streaming_decode.py" "${model[@]}" --decoding-method modified_beam_search --beam-size 4 --chunk-size 64 \
    --left-context-frames "$lefts" --state-dtype float16 --res-dir "$exp/halved" >> "$log" 2>&1
}

failed=$work_dir/failed
: > "$failed"
trap 'jobs -p | xargs -r kill 2> /dev/null || true' EXIT
echo "== Training and decoding"
number=0
gpus=${CUDA_VISIBLE_DEVICES:-$(seq -s, 0 $((jobs - 1)))}
while IFS='|' read -r name options; do
  number=$((number + 1))
  while [ "$(jobs -pr | wc -l)" -ge "$jobs" ]; do wait -n || true; done
  echo "   $number of $count: $name ($((SECONDS / 60)) min; $work_dir/logs/${name//\//-}.log)"
  (
    if [ "$device" = cuda ]; then
      IFS=, read -ra cards <<< "$gpus"
      export CUDA_VISIBLE_DEVICES=${cards[$(((number - 1) % ${#cards[@]}))]}
    else
      export OMP_NUM_THREADS=1
    fi
    run_system "$name" "$options" || echo "$name" >> "$failed"
  ) &
done < <(systems)
wait

echo "== Reports"
report_errors "$work_dir/exp" >> "$failed" || true
mapfile -t directories < <(decoded "$work_dir"/exp/*/*/seed1/homophones)
[ "${#directories[@]}" = 0 ] ||
  "$PYTHON" -m sammo.cli homophones "${directories[@]}" --out-dir "$work_dir/report/homophones" > /dev/null ||
  echo "no table of homophones" >> "$failed"
aligner=$work_dir/exp/main/zipformer/seed1
if [ -d "$aligner/results" ]; then
  mapfile -t directories < <(decoded "$work_dir"/exp/main/*/seed1/results)
  {
    [ -f "$work_dir/alignment.ctm" ] || "$PYTHON" -m sammo.cli align --exp-dir "$aligner" --epoch "$epochs" --avg "$average" \
      --manifest-dir "$data_dir/fbank" --lang "$data_dir/lang_char" --device "$device" --parts tests \
      --out "$work_dir/alignment.ctm"
  } && "$PYTHON" -m sammo.cli timing "${directories[@]}" --alignment "$work_dir/alignment.ctm" \
    --out-dir "$work_dir/report/timing" > /dev/null || echo "no table of timing" >> "$failed"
fi
echo "tables and figures: $work_dir/report ($((SECONDS / 60)) min)"
if [ -s "$failed" ]; then
  echo "not all of it came to its end:"
  sed "s|^|   |; s|\$| (see $work_dir/logs)|" "$failed"
  exit 1
fi
