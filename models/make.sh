#!/usr/bin/env bash
# Makes the package and the sample beside this file of what ./run.sh has left: models/make.sh [WORK_DIR] [options of sammo package]
#
# The package's own weights, matrices in 16 bits, are decoded with before it is final: the card's table is theirs, and but for one
# utterance in a thousand, where two words are as good as each other, the tokens must be those of the checkpoint's 32 bits, which
# ./run.sh has decoded with.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
work=${1:-work}
[ $# -eq 0 ] || shift
exp=$work/exp/sammo-tiny data=$work/data out=models/sammo-tiny python=${PYTHON:-python}
[ -d "$exp" ] || { echo "error: no $exp; ./run.sh makes it" >&2 && exit 1; }

pack=("$python" -m sammo.cli package "$exp" $out --lang "$data/lang_char" --dtype float16 --notes models/notes.md
  --dataset "mini-CSJ, synthetic speech" "$@")
"${pack[@]}"
"$python" egs/csj/ASR/sammo/decode.py --exp-dir $out --manifest-dir "$data/fbank" --decoding-method modified_beam_search \
  --beam-size 4 --chunk-size 16,32,64,128 --parts eval1,eval2,eval3,valid --res-dir "$exp/packaged" --device cpu
"${pack[@]}" --results "$exp/packaged"

for kind in timestamps recogs; do
  changed=$(for file in "$exp"/packaged/$kind-*.txt; do
    part=${file##*/$kind-} chunk=${file##*-chunk-}
    diff "$file" "$exp"/results/$kind-"${part%%-*}"-*-chunk-"${chunk%%-*}"-*modified_beam_search-beam-4-fluent.txt || true
  done | grep -c '^<' || true)
  echo "$changed lines of $kind-*.txt differ from those of the checkpoint"
done
utterances=$(cat "$exp"/packaged/recogs-*.txt | grep -c 'hyp=')
[ $((changed * 1000)) -le "$utterances" ] ||
  { echo "error: 16 bits change $changed of $utterances utterances: pass --dtype float32" >&2 && exit 1; }
"$python" local/write_cut.py "$data/fbank/csj_cuts_eval3.jsonl.gz" S01F0105_0009 models/sample.wav
"$python" -m sammo.cli transcribe models/sample.wav --out-dir models --quiet
