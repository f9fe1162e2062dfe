#!/usr/bin/env python3
"""Whether two versions of this repository train and decode alike.

    OMP_NUM_THREADS=1 python benchmarks/before_after.py BEFORE [AFTER] --work-dir DIR

BEFORE and AFTER (default: this checkout) are commits or directories of checkouts. Both train Sammo and Zipformer
(tiny, CPU) for --steps batches of a small corpus that AFTER's prepare.sh makes (or of --data-dir); then both decode what
BEFORE has trained, in the four ways that users have: whole utterances by greedy and by modified beam search, chunk by
chunk, and audio files as streams. So a training that drifts by rounding hides no difference of decoding, and AFTER must
read the checkpoints of BEFORE.

Prints a table of what was compared and whether it is identical; exits 1 if anything differs, as diff does. What is done
already is skipped: the same command resumes.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import re
import subprocess
import sys
import tarfile
from functools import cache
from pathlib import Path
from typing import Callable, NamedTuple, Sequence

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from sammo.errors import UserError, run_main
from sammo.files import atomic_write
from sammo.progress import progress

RECIPE = "egs/csj/ASR/sammo"
ENCODERS = ("sammo", "zipformer")
PART = "eval1"
# Short cuts first and CTC beside the transducer loss, as in run.sh: else nothing is emitted after so few batches. A
# version that lacks one of these options does as it says here anyway.
TRAINING = (
    "--preset tiny --device cpu --num-threads 1 --num-workers 0 --num-epochs 100 --log-interval 1 --max-duration 12 "
    "--min-duration 0 --max-cut-duration 0 --curriculum 50:2 --ctc-loss-scale 1 --base-lr 0.03 --ref-duration 0.12 "
    "--lr-batches 4000 --lr-epochs 6 --lr-warmup-batches 100 --warm-step 200 --average-period 10 --drop-last false "
    "--enable-musan false --valid-interval 1000000 --valid-cer-batches 0"
).split()
WEIGHTS = (
    "--use-averaged-model false --avg 1 --device cpu --num-threads 1 --chunk-size 32 --left-context-frames 64".split()
)
GREEDY = "--decoding-method greedy_search".split()
BEAM = "--decoding-method modified_beam_search --beam-size 4".split()
WHOLE = ["--parts", PART, "--num-workers", "0"]

Texts = dict[str, tuple[str, list[str]]]  # by utterance: what was said, and when, in seconds


class Row(NamedTuple):
    """What was compared, how many of ``total`` are identical, and what more there is to say."""

    encoder: str
    what: str
    same: int
    total: int
    note: str


class Side(NamedTuple):
    """A version: where its code is, and where what it makes goes."""

    code: Path
    out: Path

    def run(self, words: Sequence[str | Path], log: Path) -> str:
        """Runs a script or module of this version; what it prints. UserError where it fails."""
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "PYTHONPATH": str(self.code), "PYTHONUTF8": "1"}
        with open(log, "w", encoding="utf-8") as errors:
            command = [sys.executable, *map(str, words)]
            done = subprocess.run(
                command, cwd=self.code, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        if done.returncode:
            last = log.read_text(encoding="utf-8").strip().rpartition("\n")[2]
            raise UserError(f"{' '.join(command[1:3])} of {self.code} failed: {last} (all of it: {log})")
        return done.stdout


@cache
def known(code: Path, script: tuple[str, ...]) -> frozenset[str]:
    """The options that a script of a version has."""
    environment = {**os.environ, "PYTHONPATH": str(code), "PYTHONUTF8": "1", "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, *script, "--help"], cwd=code, env=environment, capture_output=True, text=True
    )
    return frozenset(re.findall(r"--[a-z][a-z0-9-]*", done.stdout))


def script_of(side: Side, name: str, options: Sequence[str | Path], log: Path) -> str:
    """Runs decode, ... with those of the ``options`` (pairs of name and value) that this version has."""
    script = ("-m", "sammo.cli", name) if name == "transcribe" else (f"{RECIPE}/{name}.py",)
    has = known(side.code, script)
    pairs = zip(options[::2], options[1::2])
    return side.run([*script, *(word for pair in pairs if pair[0] in has for word in pair)], log)


def checkout(version: str, directory: Path) -> Path:
    """The code of a commit, unpacked below ``directory``, or the directory that ``version`` is."""
    if Path(version).is_dir():
        if not (Path(version) / RECIPE / "train.py").is_file():
            raise UserError(f"{version} is no checkout: it has no {RECIPE}/train.py")
        return Path(version).resolve()
    git = ["git", "-C", str(ROOT)]
    found = subprocess.run([*git, "rev-parse", "--verify", f"{version}^{{commit}}"], capture_output=True, text=True)
    if found.returncode:
        raise UserError(f"{version} is neither a directory nor a commit of {ROOT}: see git log")
    code = directory / found.stdout.strip()[:12]
    if not (code / "done").is_file():
        archive = subprocess.run([*git, "archive", found.stdout.strip()], capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as file:
            file.extractall(code, filter="data")
        (code / "done").touch()
    return code


def prepare(code: Path, work: Path, hours: float) -> Path:
    """The corpus; its directory."""
    data = work / "data"
    options = ["--corpus", "mini", "--data-dir", data, "--hours", str(hours), "--eval-minutes", "0.5", "--nj", "1"]
    options += ["--perturb-speed", "false", "--lang-type", "char"]
    with open(work / "prepare.log", "w", encoding="utf-8") as log:
        environment = {**os.environ, "PYTHON": sys.executable}
        command = [str(code / "prepare.sh"), *map(str, options)]
        if subprocess.run(command, env=environment, stdout=log, stderr=log).returncode:
            raise UserError(f"{command[0]} failed; see the end of {work / 'prepare.log'}")
    return data


def train(side: Side, encoder: str, data: Path, steps: int) -> None:
    """Leaves the experiment SIDE/exp/ENCODER."""
    exp_dir = side.out / "exp" / encoder
    own = ["--encoder", encoder, "--exp-dir", exp_dir, "--max-steps", str(steps)]
    where = ["--manifest-dir", data / "fbank", "--lang", data / "lang_char"]
    script_of(side, "train", [*own, *where, *TRAINING], side.out / "log" / f"train-{encoder}.txt")


def decode(side: Side, trained: Side, encoder: str, way: str, data: Path) -> None:
    """Leaves SIDE/ENCODER-WAY: the files of results, or what ``transcribe`` printed."""
    out, log = side.out / f"{encoder}-{way}", side.out / "log" / f"{encoder}-{way}.txt"
    options = ["--exp-dir", trained.out / "exp" / encoder, "--lang", data / "lang_char", *WEIGHTS]
    speech = ["--manifest-dir", data / "fbank", *WHOLE, "--res-dir", out]
    if way == "transcribe":
        if not out.is_file():
            words = ["-m", "sammo.cli", "transcribe", *audio(data), *options, *GREEDY, "--timestamps", "--quiet"]
            printed = side.run(words, log)
            with atomic_write(out) as file:
                file.write(printed)
    elif way == "streaming":
        script_of(side, "streaming_decode", [*options, *speech, *GREEDY], log)
    else:
        script_of(side, "decode", [*options, *speech, *(GREEDY if way == "greedy" else BEAM)], log)


WAYS = {
    "greedy": "decode.py, greedy",
    "beam": "decode.py, modified beam 4",
    "streaming": "streaming_decode.py, greedy",
    "transcribe": "sammo transcribe, greedy",
}


def audio(data: Path) -> list[str]:
    """The recordings of the part that is decoded."""
    with gzip.open(data / "fbank" / f"csj_cuts_{PART}.jsonl.gz", "rt", encoding="utf-8") as file:
        cuts = [json.loads(line) for line in file]
    return sorted({cut["recording"]["sources"][0]["source"] for cut in cuts})


# ------------------------------------------------------------------------------------ comparing


def losses(side: Side, encoder: str) -> list[float]:
    """Of every batch, as float32."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(side.out / "exp" / encoder / "tensorboard"), {"scalars": 0})
    events.Reload()
    return [event.value for event in events.Scalars("train/current_loss")]


def compare_training(before: Side, after: Side, encoder: str) -> list[Row]:
    """The loss of every batch, and every tensor of the models afterwards."""
    from sammo.checkpoint import read_checkpoint

    old, new = losses(before, encoder), losses(after, encoder)
    apart = [abs(a - b) / abs(a) for a, b in zip(old, new)]
    same = sum(a == b for a, b in zip(old, new))
    note = f"{old[0]:.4f} to {old[-1]:.4f}; relative difference up to {max(apart[:10]):.1e} in the first 10, "
    note += f"{max(apart):.1e} in all"
    rows = [Row(encoder, "loss of a batch", same, max(len(old), len(new)), note)]
    newest = [max((side.out / "exp" / encoder).glob("epoch-*.pt"), key=_number) for side in (before, after)]
    left, right = (read_checkpoint(path, ("model",)).model for path in newest)
    both = [(left[name], right[name]) for name in left if name in right and left[name].shape == right[name].shape]
    distance = max(
        (float((a - b).abs().max() / a.abs().max().clamp(min=1e-9)) for a, b in both if a.numel()), default=0.0
    )
    same, total = sum(a.equal(b) for a, b in both), len(left.keys() | right.keys())
    rows.append(
        Row(encoder, "tensors of the trained model", same, total, f"largest relative difference {distance:.1e}")
    )
    return rows


def _number(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


def texts(side: Side, encoder: str, way: str) -> Texts:
    """What was decoded."""
    out = side.out / f"{encoder}-{way}"
    if way == "transcribe":
        found: Texts = {}
        for line in out.read_text(encoding="utf-8").splitlines():
            name, tab, text = line.partition("\t")
            if tab:
                found[Path(name).name] = (text, times := [])
            else:
                times.append(line.split()[0])
        return found
    # Older versions have the times in recogs-, too.
    paths = [path for kind in ("recogs", "timestamps") for path in out.glob(f"{kind}-*.txt")]
    lines = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    said, when = (_values(lines, key) for key in ("hyp", "timestamp_hyp"))
    return {name: (text, json.loads(when[name])) for name, text in said.items()}


def _values(lines: Sequence[str], key: str) -> dict[str, str]:
    parts = (line.partition(f":\t{key}=") for line in lines)
    return {name: value for name, found, value in parts if found}


def compare_decoding(before: Side, after: Side, encoder: str, way: str) -> list[Row]:
    """Utterances by their tokens and by the times of these."""
    old, new = texts(before, encoder, way), texts(after, encoder, way)
    total, tokens = len(old.keys() | new.keys()), sum(len(times) for _, times in old.values())
    rows = []
    for index, what in enumerate(("tokens", "time stamps")):
        same = sum(name in new and new[name][index] == found[index] for name, found in old.items())
        rows.append(Row(encoder, f"{WAYS[way]}: {what}", same, total, f"{tokens} tokens in all"))
    return rows


def table(rows: Sequence[Row]) -> str:
    """In Markdown."""
    lines = ["| encoder | compared | number | identical | verdict | |", "|---|---|---:|---:|---|---|"]
    for row in rows:
        verdict = "identical" if row.same == row.total else "**different**"
        lines.append(f"| {row.encoder} | {row.what} | {row.total} | {row.same} | {verdict} | {row.note} |")
    return "\n".join(lines)


def main() -> int:
    """0: all identical, 1: not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", metavar="BEFORE")
    parser.add_argument("after", metavar="AFTER", nargs="?", default=str(ROOT))
    parser.add_argument("--work-dir", type=Path, required=True, help="Everything is written below it.")
    parser.add_argument("--steps", type=int, default=200, help="Batches to train (default: 200).")
    parser.add_argument("--hours", type=float, default=0.03, help="Hours of training speech to make (default: 0.03).")
    parser.add_argument("--data-dir", type=Path, help="What prepare.sh wrote (default: made below --work-dir).")
    args = parser.parse_args()
    work = args.work_dir.resolve()
    work.mkdir(parents=True, exist_ok=True)
    before = Side(checkout(args.before, work / "code"), work / "before")
    after = Side(checkout(args.after, work / "code"), work / "after")
    data = args.data_dir.resolve() if args.data_dir else prepare(after.code, work, args.hours)
    jobs: list[Callable[[], None]] = []
    for encoder in ENCODERS:
        jobs += [lambda s=side, e=encoder: train(s, e, data, args.steps) for side in (before, after)]
        jobs += [
            lambda s=side, e=encoder, w=way: decode(s, before, e, w, data) for way in WAYS for side in (before, after)
        ]
    for job in progress(jobs, total=len(jobs), desc="training and decoding"):
        job()
    rows = []
    for encoder in ENCODERS:
        rows += compare_training(before, after, encoder)
        rows += [row for way in WAYS for row in compare_decoding(before, after, encoder, way)]
    print(table(rows))
    return int(any(row.same < row.total for row in rows))


if __name__ == "__main__":
    run_main(main)
