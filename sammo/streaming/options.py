"""Options that the streaming commands share, and what they make of them."""

from __future__ import annotations

import argparse
import dataclasses

import torch

from sammo.checkpoint import ModelInfo
from sammo.decoding import Chunking, chunkings, describe
from sammo.errors import UserError
from sammo.scoring import DecodeSetting
from sammo.search import Searcher, make_searcher
from sammo.transducer import Transducer

STATE_DTYPES = {"float32": None, "float16": torch.float16, "bfloat16": torch.bfloat16}
METHODS = ("greedy_search", "modified_beam_search")


def add_search_arguments(parser: argparse.ArgumentParser, method: str = "modified_beam_search") -> None:
    """How to search, ``method`` by default, and in which type to keep the states."""
    group = parser.add_argument_group("search")
    group.add_argument("--decoding-method", choices=METHODS, default=method, help=f"(default: {method})")
    group.add_argument("--beam-size", type=int, default=4, help="Of modified_beam_search (default: 4).")
    group.add_argument(
        "--state-dtype",
        choices=list(STATE_DTYPES),
        default="float32",
        help="Type in which the encoder's state is kept between chunks (default: float32).",
    )


def searcher_for(args: argparse.Namespace, model: Transducer) -> Searcher:
    """The search of the options."""
    return make_searcher(model, args.decoding_method, args.beam_size)


def settings(model: Transducer, chunk_sizes: list[int], left_context_frames: list[int]) -> list[Chunking]:
    """What to run; UserError where the model cannot stream one of them."""
    for chunk in chunk_sizes:
        if chunk <= 0:
            raise UserError(f"streaming needs chunk sizes above 0, got {chunk}")
    if min(left_context_frames) < 0:
        raise UserError(f"streaming needs a left context that ends, got {min(left_context_frames)}")
    return chunkings(model, chunk_sizes, left_context_frames)


def decode_setting(
    args: argparse.Namespace, model: Transducer, info: ModelInfo, chunking: Chunking
) -> DecodeSetting:
    """What the results of real streaming are filed under."""
    setting = describe(model, info, args, chunking)
    dtype = STATE_DTYPES[args.state_dtype] or torch.float32
    return dataclasses.replace(
        setting,
        streaming=True,
        state_dtype=args.state_dtype,
        state_bytes=setting.state_bytes * dtype.itemsize // 4,
    )
