"""``sammo endurance``: error rates over the position in talks that are longer than anything in training."""

from __future__ import annotations

import argparse
from pathlib import Path

from sammo.data.config import DataConfig
from sammo.options import Chunks, ModelSource, Parts, Search, add_options, check_range, from_args


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    add_options(parser, ModelSource, "model", "Its architecture is read from the checkpoint.")
    add_options(parser, Parts)
    add_options(parser, Chunks)
    add_options(parser, Search, decoding_method="greedy_search")
    parser.add_argument("--minutes", type=float, default=60.0, help="Length of a talk (default: 60).")
    parser.add_argument("--talks", type=int, default=2, help="Talks, each in another order (default: 2).")
    parser.add_argument("--pause", type=float, default=0.6, help="Least silence between utterances, s (default: 0.6).")
    parser.add_argument(
        "--reset-every",
        type=float,
        default=0.0,
        help="Seconds after which the next utterance begins with an empty state; 0: never (default).",
    )
    parser.add_argument("--seed", type=int, default=0, help="Of the order of the utterances (default: 0).")
    parser.add_argument("--out-dir", type=Path, help="Where the tables go (default: EXP_DIR/endurance).")
    others = {"num_workers": 1, "on_the_fly_feats": True}
    add_options(parser, DataConfig, "data", "How batches are made of the corpus that prepare.sh wrote.", **others)


def run(args: argparse.Namespace) -> int:
    """Decodes, prints the tables and writes them."""
    check_range("--minutes", args.minutes, 0.01, 1440, "a talk has a beginning and ends within a day")
    check_range("--talks", args.talks, 1, 64, "they are decoded at the same time")
    check_range("--pause", args.pause, 0, 60, "it is the silence between two utterances, in seconds")
    check_range("--reset-every", args.reset_every, 0, 86400, "it is a time in seconds, or 0")
    source, chunks = from_args(ModelSource, args), from_args(Chunks, args)
    search, data = from_args(Search, args), from_args(DataConfig, args)
    from sammo.evidence.command import Talks, show_endurance

    talks = Talks(args.minutes, args.talks, args.pause, args.reset_every, args.seed)
    show_endurance(source, chunks, search, data, args.parts, talks, args.out_dir)
    return 0
