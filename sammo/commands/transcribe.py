"""``sammo transcribe``: audio to text while it arrives."""

from __future__ import annotations

import argparse

from sammo.options import (
    OWN_PACKAGE,
    Chunks,
    Deployment,
    Endpointing,
    ModelSource,
    Search,
    Streams,
    add_options,
    from_args,
)
from sammo.streaming.options import TranscribeOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    help = "Audio files (WAV, FLAC, Ogg, MP3, ... of any sampling rate), directories of them, or - for raw samples."
    parser.add_argument("audio", nargs="*", metavar="AUDIO", help=help)
    add_options(parser, TranscribeOptions, "transcription")
    add_options(parser, Chunks)
    add_options(parser, Endpointing, "utterances")
    add_options(parser, ModelSource, "model", "Its architecture is read from the checkpoint.", exp_dir=OWN_PACKAGE)
    add_options(parser, Search, "search", decoding_method="greedy_search")
    add_options(parser, Streams, without=("num_decode_streams",))
    add_options(parser, Deployment)


def run(args: argparse.Namespace) -> int:
    """Prints texts; 1 if any file failed."""
    options, source = from_args(TranscribeOptions, args), from_args(ModelSource, args)
    chunks = from_args(Chunks, args)
    search, streams = from_args(Search, args), from_args(Streams, args)
    endpointing, deployment = from_args(Endpointing, args), from_args(Deployment, args)
    from sammo.streaming.transcribe import transcribe

    return transcribe(args.audio, options, source, chunks, search, streams, endpointing, deployment)
