#!/usr/bin/env bash
# Prepares CMU's AN4 for training: see --help.
set -euo pipefail

export PYTHONUTF8=1 OMP_NUM_THREADS=1 PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python

root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../.." && pwd)
local=$root/local
python=${PYTHON:-python3}
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
. "$local/stages.sh"

stage=1
stop_stage=100
nj=$(count_cores)
an4_dir=
data_dir=data
byte_order=auto
valid_speakers=6
lang_type=
vocab_sizes=100
perturb_speed=true

usage() {
  cat <<END
Usage: ./prepare.sh --an4-dir DIR [options]

DIR is AN4 as CMU distributes it: etc, and wav with .raw files of either byte order or .sph files. Everything is written
under --data-dir. What is done already, with the same options, is skipped; what was interrupted goes on. Runs with
\$PYTHON (now: $python).

Stages:
  1  audio as WAV, manifests of the parts train, valid (speakers held out of the training list) and test
  2  80-bin Fbank, of the training part also at 0.9 and 1.1 times the speed
  3  character units, the space between words among them
  4  BPE units
  5  validation of the manifests
  6  statistics

Options:
  --stage N, --stop-stage N     first and last stage to run (default: all)
  --nj N                        processes (default: the number of cores, here $nj)
  --data-dir DIR                default: data, below the current directory
  --byte-order auto|big|little  of .raw files (default: auto, which asks the samples)
  --perturb-speed BOOL          copies of the training part at other speeds (default: $perturb_speed)
  --valid-speakers N            speakers of the part valid (default: $valid_speakers)
  --lang-type "char bpe"        which units to make (default: char, the corpus's)
  --vocab-sizes "N ..."         BPE vocabularies (default: $vocab_sizes)
END
}

names="stage stop-stage nj an4-dir data-dir byte-order valid-speakers perturb-speed lang-type vocab-sizes"
parse_options "$names" "" "$@"
check_options valid_speakers '[0-9]{1,9}' "a number"
check_options byte_order "auto|big|little" "auto, big or little"
check_options perturb_speed "true|false" "true or false"
[ -n "$an4_dir" ] || die "--an4-dir DIR is missing, the directory of CMU's AN4 that holds etc and wav; see --help"
[ -d "$an4_dir" ] || die "no AN4 directory $an4_dir; --an4-dir is the directory that holds etc and wav"
check_stages an4

lock_directory "$data_dir"
data_dir=$(cd "$data_dir" && pwd)
manifests=$data_dir/manifests
fbank=$data_dir/fbank
lists=$(find -L "$an4_dir"/etc/an4_*.fileids "$an4_dir"/etc/an4_*.transcription 2> /dev/null | sort | xargs -r cat | cksum)
key="an4 $(readlink -f "$an4_dir") lists=${lists// /-} byte-order=$byte_order valid-speakers=$valid_speakers"

run_stage 1 "Prepare AN4 manifests from $an4_dir" "" "$manifests/.an4.done" "$key" \
  "$python" "$local/prepare_an4_manifests.py" --an4-dir "$an4_dir" --wav-dir "$data_dir/wav" \
  --manifest-dir "$manifests" --byte-order "$byte_order" --valid-speakers "$valid_speakers"

run_stage 2 "Compute Fbank of AN4" "$manifests/.an4.done" "$fbank/.an4.done" "$key speed=$perturb_speed" \
  "$python" "$local/compute_fbank.py" --corpus an4 --manifest-dir "$manifests" --fbank-dir "$fbank" \
  --nj "$nj" --perturb-speed "$perturb_speed"

train=$fbank/an4_cuts_train.jsonl.gz
if [[ " $lang_type " == *" char "* ]]; then
  run_stage 3 "Prepare character units" "$fbank/.an4.done" "$data_dir/lang_char/.done" "$key" \
    "$python" "$local/prepare_lang_char.py" --manifest "$train" --lang-dir "$data_dir/lang_char" --mode "" --words
fi

if [[ " $lang_type " == *" bpe "* ]]; then
  for size in $vocab_sizes; do
    lang=$data_dir/lang_bpe_$size
    run_stage 4 "Train $size BPE units" "$fbank/.an4.done" "$lang/.done" "$key" \
      "$python" "$local/train_bpe_model.py" --manifest "$train" --lang-dir "$lang" --vocab-size "$size" --mode "" --words
  done
fi

checked=()
for part in $("$python" -m sammo.corpora parts an4); do checked+=("$fbank/an4_cuts_$part.jsonl.gz"); done
units=()
if [[ " $lang_type " == *" char "* ]]; then units=(--lang "$data_dir/lang_char"); fi
run_stage 5 "Validate the manifests" "$fbank/.an4.done" "$fbank/.validated.done" "$key ${units[*]}" \
  "$python" "$local/validate_manifest.py" "${checked[@]}" "${units[@]}" --mode ""

run_stage 6 "Show statistics" "$fbank/.an4.done" "$fbank/.statistics.done" "$key" \
  "$python" "$local/display_manifest_statistics.py" --manifest-dir "$fbank"
log "Done up to stage $((stop_stage < 6 ? stop_stage : 6)): $data_dir"
