"""``sammo memory``: error rates with parts of the encoder's memory removed, and how long its heads remember."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from sammo.data.config import DataConfig
from sammo.options import ModelSource, Parts, WholeSearch, add_options, from_args, integers, numbers


def seconds(text: str) -> tuple[float, ...]:
    """argparse type: "0.64,2.56" -> (0.64, 2.56), all above 0."""
    try:
        found = numbers(text)
    except argparse.ArgumentTypeError:
        found = ()
    if not found or not all(0 < value < math.inf for value in found):
        raise argparse.ArgumentTypeError(f"expected seconds above 0 separated by commas, got {text!r}")
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    add_options(parser, ModelSource, "model", "Its architecture is read from the checkpoint.")
    add_options(parser, Parts, "memory")
    parser.add_argument("--chunk-size", type=integers, default=(16, 64), help="Frames of 20 ms (default: 16,64).")
    parser.add_argument(
        "--ages",
        type=seconds,
        help="Seconds of the past that the recurrent state is held to, multiples of the chunk (default: 0.5,1,2,5,10, "
        "rounded up to whole chunks).",
    )
    parser.add_argument(
        "--left-context-frames",
        type=integers,
        help="Frames of 20 ms that attention sees before a chunk; the longest is the model as it is. Encoders whose "
        "attention stays in its chunk ignore it (default: 0,16,32,64,128,256).",
    )
    add_options(parser, WholeSearch, decoding_method="greedy_search")
    parser.add_argument("--out-dir", type=Path, help="Where the tables and the figure go (default: EXP_DIR/memory).")
    others = {"num_workers": 1, "on_the_fly_feats": True}
    add_options(parser, DataConfig, "data", "How batches are made of the corpus that prepare.sh wrote.", **others)


def run(args: argparse.Namespace) -> int:
    """Decodes, prints the tables and writes them."""
    source, search, data = from_args(ModelSource, args), from_args(WholeSearch, args), from_args(DataConfig, args)
    from sammo.memory.command import show_memory

    chunks, lefts = args.chunk_size, args.left_context_frames
    show_memory(source, search, data, args.parts, chunks, lefts, args.ages, args.out_dir)
    return 0
