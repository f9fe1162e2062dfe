#!/usr/bin/env bash
# AN4 from CMU's files to a table of word and character error rates over chunk widths. See --help.
set -euo pipefail

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
root=$here/../../..
called_from=$PWD
cd "$here"
. "$root/local/options.sh"

an4_dir=
epochs=15
preset=tiny
device=auto
work_dir=work
lang_type=char
vocab_size=250
lm_order=0
lm_scale=0.2
cores=$(count_cores)
smoke=false

usage() {
  cat <<END
Usage: ./run.sh --an4-dir DIR [options]

Prepares AN4, trains Sammo and its Zipformer baseline for the same number of epochs, decodes both over chunk widths, and
writes a table and figures of word and character error rates. Interrupted, it goes on where it stopped. On 2 CPU cores
it takes less than an hour.

  --an4-dir DIR    CMU's AN4, the directory that holds etc and wav
  --epochs N       epochs for each of the two models (default: $epochs)
  --preset P       tiny, small or medium (default: $preset)
  --device D       auto, cpu or cuda (default: $device)
  --work-dir DIR   everything is written below it (default: $here/$work_dir)
  --lang-type T    char or bpe (default: $lang_type)
  --vocab-size N   units of bpe (default: $vocab_size)
  --lm-order N     decode also with an N-gram model of the training text; 0: without alone (default: $lm_order)
  --lm-scale X     its weight (default: $lm_scale)
  --smoke          one epoch and two chunk widths; the error rates mean nothing
END
}

parse_options "an4-dir epochs preset device work-dir lang-type vocab-size lm-order lm-scale" smoke "$@"
[ -n "$an4_dir" ] || die "--an4-dir DIR is missing; see --help"
check_options preset "tiny|small|medium" "tiny, small or medium"
check_options "epochs vocab_size" '[1-9][0-9]*' "a whole number above 0"
check_options lang_type "char|bpe" "char or bpe"
check_options lm_order '[0-9]+' "a whole number"
# Paths are the caller's.
an4_dir=$(cd "$called_from" && readlink -m "$an4_dir")
[ "$work_dir" = work ] || work_dir=$(cd "$called_from" && readlink -m "$work_dir")

chunks=16,32,64,128
lefts=16,32,64,128,256 # 32 keeps as many bytes as Sammo does
# As in local/budget.sh, for real speech: SpecAugment on, and no curriculum, since most of AN4's utterances
# are short already, many of less than a second. 39 minutes of speech are little: copies at other speeds help most, and the
# learning rate falls within the 15 epochs that they make three times as long.
budget=(--max-duration 12 --min-duration 0 --ctc-loss-scale 1 --base-lr 0.03 --ref-duration 0.12 --lr-batches 4000
  --lr-epochs 3 --lr-warmup-batches 100 --warm-step 200 --average-period 10 --num-workers 1 --drop-last false
  --speed-perturb true --enable-spec-aug true --enable-musan false --valid-interval 1000000)
if $smoke; then
  epochs=1 chunks=16,64 lefts=128
  budget+=(--average-period 1) # a part of the corpus has few batches
  [ "$work_dir" != work ] || work_dir=work/smoke
fi

. "$root/local/venv.sh"
make_venv "$(cd "$root" && pwd)"
export PYTHON PYTHONUTF8=1
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
mkdir -p "$work_dir"
data=$work_dir/data
units=$lang_type model=$preset
if [ "$lang_type" = bpe ]; then units=bpe_$vocab_size model=$preset-bpe-$vocab_size; fi
options=(--manifest-dir "$data/fbank" --lang "$data/lang_$units" --device "$device")

echo "== Audio, manifests and features in $data"
./prepare.sh --an4-dir "$an4_dir" --data-dir "$data" --lang-type "$lang_type" --vocab-sizes "$vocab_size" \
  > "$work_dir/prepare.log" || die "preparation failed; see the end of $work_dir/prepare.log"
lm=$work_dir/$units-$lm_order-gram.arpa
if [ "$lm_order" -gt 0 ]; then
  "$PYTHON" -m sammo.cli ngram "${options[@]:0:4}" --order "$lm_order" --out "$lm"
fi

train() {
  local left=()
  [ "$1" = sammo ] || left=(--left-context-frames "$lefts,-1")
  "$PYTHON" sammo/train.py --encoder "$1" --preset "$preset" --exp-dir "$work_dir/exp/$1-$model" --num-epochs "$epochs" \
    "${options[@]}" "${left[@]}" "${budget[@]}"
}

decode() {
  local exp=$work_dir/exp/$1-$model scale
  local scales=(0)
  [ "$lm_order" -eq 0 ] || scales+=("$lm_scale")
  for scale in "${scales[@]}"; do
    "$PYTHON" sammo/decode.py --exp-dir "$exp" --epoch "$epochs" --avg 1 --use-averaged-model true "${options[@]}" \
      --decoding-method modified_beam_search --beam-size 4 --chunk-size "$chunks" --left-context-frames "$lefts" \
      --lm "$lm" --lm-scale "$scale" --parts valid,tests --res-dir "$exp/results"
  done
}

. "$root/local/experiment.sh"

echo "== Training Sammo and Zipformer ($preset, $epochs epochs) in $work_dir/exp"
both train sammo zipformer
echo "== Decoding with chunks of $chunks frames of 20 ms"
both decode zipformer sammo
echo "== Report"
"$PYTHON" -m sammo.cli report "$work_dir/exp/sammo-$model/results" "$work_dir/exp/zipformer-$model/results" \
  --out-dir "$work_dir/report" --statistics "$data/fbank/statistics.json"
echo "   ($((SECONDS / 60)) min)"
