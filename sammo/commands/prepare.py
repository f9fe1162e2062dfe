"""``sammo prepare``: recordings of one's own, with transcripts, become a corpus."""

from __future__ import annotations

import argparse
from pathlib import Path

from sammo.options import add_options, from_args
from sammo.preparation.config import PrepareConfig

# For a few hours of speech: thousands of short steps, and what the defaults spread over weeks of audio happens sooner.
FEW_HOURS = 20
SMALL = """ --preset tiny --num-epochs 40 --max-duration 12 --min-duration 0 \\
    --ctc-loss-scale 1 --base-lr 0.03 --ref-duration 0.12 --lr-batches 4000 --lr-epochs 6 --lr-warmup-batches 100 \\
    --warm-step 200 --average-period 10 --drop-last false"""
NEXT = """
next, see docs/own-data.md:
  sammo train --manifest-dir {out}/fbank --exp-dir exp/sammo --enable-musan false{options}
  sammo decode --manifest-dir {out}/fbank --exp-dir exp/sammo --chunk-size 16,32,64 --parts {parts}
  sammo report exp/sammo --out-dir report"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    parser.add_argument(
        "source",
        type=Path,
        help="A folder of audio files, each with its transcript in a .txt of the same name (subfolders are speakers), or "
        "a .tsv, .csv or .jsonl with columns path, text and, if known, speaker and part (train, valid, test, ...).",
    )
    add_options(parser, PrepareConfig)


def run(args: argparse.Namespace) -> int:
    """Prepares and says what comes next."""
    config = from_args(PrepareConfig, args)
    from sammo.preparation.own import prepare

    corpus, hours = prepare(args.source, config)
    options = SMALL if hours < FEW_HOURS else " --preset small"
    print(NEXT.format(out=config.out_dir, options=options, parts=",".join((corpus.valid, "tests"))))
    return 0
