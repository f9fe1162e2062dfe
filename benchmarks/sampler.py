#!/usr/bin/env python3
"""What a step's batches cost the training process, over the number of processes: this project's sampler beside lhotse's.

    python benchmarks/sampler.py
    python benchmarks/sampler.py --manifest work/data/fbank/csj_cuts_train.jsonl.gz --shar-dir work/data/shar \
      --max-duration 12 --buffer-size 300

Processor time of one of them, so that a busy machine does not matter. "lhotse" is DynamicBucketingSampler, as icefall's recipes
use it: every process builds the cuts of all. Without --manifest a corpus of CSJ's shape is made up. The buffer must be smaller
than the corpus: what the first step has read, the steps that are measured do not read.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Iterable, Iterator

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, help="cuts (.jsonl.gz) to draw from")
    parser.add_argument("--shar-dir", type=Path, help="the same for shards of local/make_shar.py")
    parser.add_argument("--cuts", type=int, default=100_000, help="in the corpus that is made up")
    parser.add_argument("--max-duration", type=float, default=650.0)
    parser.add_argument("--buffer-size", type=int, default=60_000, help="cuts; as in train.py")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--steps", type=int, default=10)
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # --help answers before what follows is loaded

from lhotse.dataset import DynamicBucketingSampler

from sammo.data.cuts import Cuts, ManifestCuts
from sammo.data.manifests import Survey, duration_bins, survey_manifests
from sammo.data.sampling import TrainSampler
from sammo.data.shar import SharCuts, shar_manifests
from sammo.data.sources import SHAR
from sammo.errors import UserError, run_main

BUCKETS = 30


def made_up(path: Path, cuts: int) -> None:
    """A manifest of cuts of 1 to 11 s with four transcripts and stored features, as prepare.sh writes them."""
    rng = random.Random(0)
    with gzip.open(path, "wt", compresslevel=1, encoding="utf-8") as file:
        for number in range(cuts):
            seconds = round(rng.uniform(1.0, 11.0), 2)
            name, text = f"A01M{number:07d}", "".join(rng.choices("あいうえおかきくけこ", k=int(7 * seconds)))
            span = {"start": 0.0, "duration": seconds}
            modes = dict.fromkeys(("fluent", "disfluent", "number", "raw"), text)
            supervision = {"id": name, "recording_id": name, **span, "channel": 0, "text": text, "custom": modes}
            storage = {
                "storage_type": "lilcom_chunky",
                "storage_path": "fbank/feats-1.lca",
                "storage_key": "123456,40000",
            }
            shape = {"num_frames": int(100 * seconds), "num_features": 80, "frame_shift": 0.01, "sampling_rate": 16000}
            features = {"type": "kaldi-fbank", **shape, **span, **storage, "recording_id": "None", "channels": 0}
            sources = [{"type": "file", "channels": [0], "source": f"WAV/noncore/{name[:8]}.wav"}]
            rate = {
                "sampling_rate": 16000,
                "num_samples": int(16000 * seconds),
                "duration": seconds,
                "channel_ids": [0],
            }
            recording = {"id": name, "sources": sources, **rate}
            cut = {"id": name, **span, "channel": 0, "supervisions": [supervision], "features": features}
            file.write(json.dumps({**cut, "recording": recording, "type": "MonoCut"}, ensure_ascii=False) + "\n")


def cost(batches: Iterable, steps: int) -> float:
    """Milliseconds of processor time a step; the first, which fills the buffer, is not counted."""
    iterator: Iterator = iter(batches)
    next(iterator)
    begin, count = time.process_time(), 0
    while count < steps and next(iterator, None) is not None:  # a for loop would start lhotse's sampler again
        count += 1
    return 1e3 * (time.process_time() - begin) / max(1, count)


def rows(name: str, survey: Survey, cuts: Cuts, args: argparse.Namespace) -> None:
    """One line of the table for every number of processes."""
    if args.buffer_size >= len(survey.durations):
        raise UserError(f"--buffer-size must be less than the {len(survey.durations)} cuts, or no step reads any")
    bins = duration_bins(survey.durations, BUCKETS)
    for ranks in args.ranks:
        common = {"max_duration": args.max_duration, "buffer_size": args.buffer_size, "rank": 0, "world_size": ranks}
        ours = cost(TrainSampler(cuts, survey, epoch=1, num_buckets=BUCKETS, **common), args.steps)
        theirs = cost(DynamicBucketingSampler(cuts, duration_bins=bins, shuffle=True, **common), args.steps)
        print(f"| {name} | {ranks} | {theirs:.2f} | {ours:.2f} | {theirs / ours:.1f} |", flush=True)


def main() -> None:
    args = parse_args()
    warnings.simplefilter("ignore")
    print("| cuts | processes | lhotse, ms a step | sammo, ms a step | lhotse / sammo |\n|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as directory:
        manifest = args.manifest or Path(directory) / "cuts.jsonl.gz"
        if args.manifest is None:
            made_up(manifest, args.cuts)
        survey = survey_manifests("train", [manifest], "", None)
        rows("manifest", survey, ManifestCuts([manifest], survey), args)
    if args.shar_dir is not None:
        survey = survey_manifests("train", shar_manifests(args.shar_dir, False), "", None, allowed=SHAR)
        rows("Shar", survey, SharCuts(args.shar_dir, survey), args)


if __name__ == "__main__":
    run_main(main)
