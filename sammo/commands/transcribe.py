"""``sammo transcribe``: audio files to text, chunk by chunk."""

from __future__ import annotations

import argparse

from sammo.options import Chunks, Deployment, ModelSource, Search, Streams, add_options, from_args, parse_bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    parser.add_argument("audio", nargs="+", help="Audio files: WAV, FLAC, OGG, ... of any sampling rate.")
    add_options(parser, ModelSource, "model", "Its architecture is read from the checkpoint.")
    add_options(parser, Chunks)
    add_options(parser, Search, decoding_method="greedy_search")
    add_options(parser, Streams, without=("num_decode_streams",))
    add_options(parser, Deployment)
    parser.add_argument(
        "--num-streams",
        dest="num_decode_streams",
        type=int,
        default=1,
        help="Files transcribed at the same time (default: 1).",
    )
    parser.add_argument("--channel", type=int, help="Channel, from 0 (default: the mean of all).")
    parser.add_argument(
        "--allow-truncated",
        type=parse_bool,
        default=False,
        help="Transcribe what is there of files that are cut short, with a warning (default: false).",
    )
    parser.add_argument("--timestamps", action="store_true", help="Print the time of every token, too.")
    parser.add_argument("--quiet", action="store_true", help="Print no partial results.")


def run(args: argparse.Namespace) -> int:
    """Prints texts; 1 if any file failed."""
    source, chunks = from_args(ModelSource, args), from_args(Chunks, args)
    search, streams, deployment = from_args(Search, args), from_args(Streams, args), from_args(Deployment, args)
    from sammo.streaming.transcribe import transcribe

    others = (args.channel, args.allow_truncated, args.timestamps, args.quiet, deployment)
    return transcribe(args.audio, source, chunks, search, streams, *others)
