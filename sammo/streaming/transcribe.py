"""``sammo transcribe``: audio files to text, chunk by chunk, with what is known so far after every chunk."""

from __future__ import annotations

import argparse
import sys
from functools import partial

from sammo.data.datamodule import parse_bool
from sammo.data.tokens import load_tokenizer
from sammo.decoding import add_model_arguments, load_model_for
from sammo.streaming.audio import stream_audio
from sammo.streaming.options import STATE_DTYPES, add_search_arguments, searcher_for
from sammo.streaming.recognizer import Stream, StreamingRecognizer, recognize


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    parser.add_argument("audio", nargs="+", help="Audio files: WAV, FLAC, OGG, ... of any sampling rate.")
    add_model_arguments(parser)
    add_search_arguments(parser, "greedy_search")
    parser.add_argument("--chunk-size", type=int, default=32, help="Frames of 20 ms a chunk (default: 32).")
    parser.add_argument(
        "--left-context-frames", type=int, default=128, help="Attention cache of the Zipformer encoder (default: 128)."
    )
    parser.add_argument("--channel", type=int, default=None, help="Channel, from 0 (default: the mean of all).")
    parser.add_argument(
        "--allow-truncated",
        type=parse_bool,
        default=False,
        help="Transcribe what is there of files that are cut short, with a warning (default: false).",
    )
    parser.add_argument("--num-streams", type=int, default=1, help="Files transcribed at the same time (default: 1).")
    parser.add_argument("--timestamps", action="store_true", help="Print the time of every token, too.")
    parser.add_argument("--quiet", action="store_true", help="Print no partial results.")


def run(args: argparse.Namespace) -> int:
    """Prints a line "FILE<tab>TEXT" a file on stdout, partial results and errors on stderr; 1 if any file failed."""
    tokenizer = load_tokenizer(args.lang)
    model, _ = load_model_for(args, tokenizer)
    recognizer = StreamingRecognizer(
        model, searcher_for(args, model), args.chunk_size, args.left_context_frames, STATE_DTYPES[args.state_dtype]
    )
    shown: dict[Stream, str] = {}

    def show(stream: Stream) -> None:
        text = tokenizer.decode(stream.result.tokens)
        if text != shown.get(stream, ""):
            shown[stream] = text
            name = f"{stream.key}  " if len(args.audio) > 1 else ""
            print(f"{name}{stream.duration:7.2f} s  {text}", file=sys.stderr, flush=True)

    sources = ((path, partial(stream_audio, path, args.channel, 0.1, args.allow_truncated)) for path in args.audio)
    failed = 0
    for stream in recognize(recognizer, sources, args.num_streams, None if args.quiet else show):
        shown.pop(stream, None)
        if stream.error:
            failed += 1
            print(f"error: {stream.error}", file=sys.stderr, flush=True)
            continue
        print(f"{stream.key}\t{tokenizer.decode(stream.result.tokens)}", flush=True)
        if args.timestamps:
            for token, time in zip(stream.result.tokens, stream.timestamps):
                print(f"  {time:8.2f}  {tokenizer.piece(token)}", flush=True)
    return 1 if failed else 0
