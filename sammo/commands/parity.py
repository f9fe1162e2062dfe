"""``sammo parity``: compares simulated with chunk-by-chunk decoding."""

from __future__ import annotations

import argparse

from sammo.options import Chunks, Compared, ModelSource, Parts, Search, Speech, Streams, add_options, from_args


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    add_options(parser, ModelSource, "model", "Its architecture is read from the checkpoint.")
    add_options(parser, Speech, "data")
    add_options(parser, Parts)
    add_options(parser, Chunks, chunk_size=(16, 32, 64, 128))
    add_options(parser, Search)
    add_options(parser, Streams, state_dtype="float16")
    add_options(parser, Compared)
    parser.add_argument("--max-utterances", type=int, default=0, help="Of a part; 0: all (default).")


def run(args: argparse.Namespace) -> int:
    """Prints the table; 1 if any utterance came out differently."""
    source, chunks, search = from_args(ModelSource, args), from_args(Chunks, args), from_args(Search, args)
    streams, speech, compared = from_args(Streams, args), from_args(Speech, args), from_args(Compared, args)
    from sammo.streaming.parity import print_parity

    return print_parity(source, chunks, search, streams, speech, args.parts, args.max_utterances, compared)
