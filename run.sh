#!/usr/bin/env bash
# The main job: the paper's experiment, small, on a corpus that is made here. See --help.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"
. local/options.sh

hours=2
eval_minutes=
epochs=
preset=tiny
device=auto
work_dir=work
cores=$(count_cores)
nj=$cores
smoke=false

usage() {
  cat <<END
Usage: ./run.sh [options]

Makes a small Japanese corpus in the layout of CSJ, prepares it, trains Sammo and its Zipformer baseline for the same
number of epochs, decodes both over chunk widths, and writes a table and figures of character error rates. Interrupted,
it resumes where it stopped. On 2 CPU cores it takes one to two hours.

  --hours H        hours of training speech (default: $hours)
  --epochs N       epochs for each of the two models (default: what fits the time)
  --preset P       tiny, small or medium (default: $preset)
  --device D       auto, cpu or cuda (default: $device)
  --work-dir DIR   everything is written below it (default: $work_dir)
  --nj N           processes (default: the number of cores, here $nj)
  --smoke          every stage on next to no data, in less than 5 minutes; the error rates mean nothing
END
}

parse_options "hours epochs preset device work-dir nj" smoke "$@"
check_options preset "tiny|small|medium" "tiny, small or medium"
check_options hours '[0-9]*\.?[0-9]+' "a number"
check_options epochs '|[1-9][0-9]*' "a whole number above 0"

chunks=16,32,64,128
lefts=16,32,64,128,256  # 32 keeps as many bytes as Sammo does
memory_chunks=16,64
parts=valid,tests
. local/budget.sh
budget=("${small[@]}" "${noise[@]}" "${joined[@]}")
if $smoke; then
  hours=0.03 eval_minutes=0.3 epochs=${epochs:-1} chunks=16,64 lefts=32,128 memory_chunks=64
  budget+=(--average-period 1 --curriculum '' --enable-spec-aug true --enable-musan true)
  [ "$work_dir" != work ] || work_dir=work/smoke
fi
epochs=${epochs:-15}

. local/venv.sh
make_venv "$PWD"
export PYTHON PYTHONUTF8=1 PATH="$PWD/.venv/bin:$PATH"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
mkdir -p "$work_dir"
data=$work_dir/data
recipe=egs/csj/ASR/sammo
began=$SECONDS

stage() {
  echo
  echo "== $1"
}

took() {
  printf '   (%d min %02d s, %d min in all)\n' $(((SECONDS - $1) / 60)) $(((SECONDS - $1) % 60)) $(((SECONDS - began) / 60))
}

t=$SECONDS
stage "Corpus, manifests and features in $data"
./prepare.sh --corpus mini --data-dir "$data" --nj "$nj" --hours "$hours" --perturb-speed false \
  ${eval_minutes:+--eval-minutes "$eval_minutes"} > "$work_dir/prepare.log" ||
  die "preparation failed; see the end of $work_dir/prepare.log"
took "$t"

train() {
  "$PYTHON" $recipe/train.py --encoder "$1" --preset "$preset" --seed 1 --exp-dir "$work_dir/exp/$1-$preset" \
    --manifest-dir "$data/fbank" --lang "$data/lang_char" --num-epochs "$epochs" --device "$device" \
    --left-context-frames "$lefts,-1" --long-form-from-epoch "$(last_two "$epochs")" "${budget[@]}"
}

decode() {
  local exp=$work_dir/exp/$1-$preset
  "$PYTHON" $recipe/decode.py --exp-dir "$exp" --epoch "$epochs" --avg 1 --use-averaged-model true \
    --manifest-dir "$data/fbank" --lang "$data/lang_char" --decoding-method modified_beam_search --beam-size 4 \
    --chunk-size "$chunks" --left-context-frames "$lefts" --parts "$parts" --res-dir "$exp/results" --device "$device"
}

# What the memory is worth: error rates with parts of it removed.
memory() {
  sammo memory --exp-dir "$work_dir/exp/$1-$preset" --epoch "$epochs" --manifest-dir "$data/fbank" \
    --lang "$data/lang_char" --chunk-size "$memory_chunks" --device "$device" \
    --decoding-method modified_beam_search --beam-size 4
}

. local/experiment.sh

t=$SECONDS
stage "Training Sammo and Zipformer ($preset, $epochs epochs) in $work_dir/exp"
both train sammo zipformer
took "$t"

t=$SECONDS
stage "Decoding with chunks of $chunks frames of 20 ms"
both decode zipformer sammo
took "$t"

t=$SECONDS
stage "Decoding with parts of the memory removed"
both memory zipformer sammo
took "$t"

stage "Report"
sammo report "$work_dir/exp/sammo-$preset/results" "$work_dir/exp/zipformer-$preset/results" \
  --out-dir "$work_dir/report" --memory "$work_dir/exp/sammo-$preset/memory/memory.json" --statistics "$data/fbank/statistics.json"
took "$began"
