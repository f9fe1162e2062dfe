"""``streaming_decode.py``: decodes test sets chunk by chunk, many streams at a time."""

from __future__ import annotations

import argparse

from sammo.icefall_options import COMMON, DECODE, add_icefall_options
from sammo.options import (
    Chunks,
    Deployment,
    ModelSource,
    Parts,
    Results,
    Search,
    Speech,
    Streams,
    add_options,
    from_args,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of streaming_decode.py."""
    add_options(parser, ModelSource, "model", "Its architecture is read from the checkpoint.")
    add_options(parser, Speech, "data")
    for schema in (Parts, Chunks, Search, Streams, Deployment, Results):
        add_options(parser, schema)
    help = "Write partials-*.txt: the text after each chunk."
    parser.add_argument("--partial-results", action="store_true", help=help)
    add_icefall_options(parser, COMMON, DECODE, sizes=True)


def run(args: argparse.Namespace) -> int:
    """Decodes and writes the results; 1 where an utterance was given up."""
    source, chunks, search = from_args(ModelSource, args), from_args(Chunks, args), from_args(Search, args)
    streams, speech, results = from_args(Streams, args), from_args(Speech, args), from_args(Results, args)
    deployment = from_args(Deployment, args)
    from sammo.streaming.decoding import streaming_decode

    options = (source, chunks, search, streams, speech, args.parts, results, args.partial_results, deployment)
    return streaming_decode(*options)
