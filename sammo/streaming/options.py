"""Options that the streaming commands share, and what they make of them."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import torch

from sammo.data.datamodule import parse_bool
from sammo.data.tokens import Tokenizer
from sammo.decoding import Chunking, chunkings, describe
from sammo.errors import UserError
from sammo.scoring import DecodeSetting
from sammo.search import Searcher, make_searcher
from sammo.training.distributed import choose_device
from sammo.training.loading import check_tokenizer, load_model
from sammo.transducer import Transducer

STATE_DTYPES = {"float32": None, "float16": torch.float16, "bfloat16": torch.bfloat16}
METHODS = ("greedy_search", "modified_beam_search")


def names(text: str) -> list[str]:
    """argparse type: "eval1,eval2" -> ["eval1", "eval2"]."""
    return [item for item in text.split(",") if item]


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, as decode.py names it."""
    group = parser.add_argument_group("model", "Its architecture is read from the checkpoint.")
    group.add_argument("--exp-dir", type=Path, default=Path("exp"), help="--exp-dir of train.py (default: exp)")
    group.add_argument("--checkpoint", type=Path, help="A checkpoint file instead, best-valid.pt for instance.")
    group.add_argument("--epoch", type=int, default=0, help="Use epoch-N.pt (default: the newest checkpoint).")
    group.add_argument("--iter", type=int, default=0, help="Use checkpoint-N.pt.")
    group.add_argument("--avg", type=int, default=1, help="Checkpoints to average over (default: 1).")
    group.add_argument(
        "--use-averaged-model", type=parse_bool, default=True, help="Average over all batches in between (default: true)."
    )
    group.add_argument("--lang", type=Path, default=Path("data/lang_char"), help="Directory of the output units.")
    group.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="(default: auto)")
    group.add_argument("--num-threads", type=int, default=0, help="CPU threads; 0: as PyTorch chooses.")


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


def load_model_for(args: argparse.Namespace, tokenizer: Tokenizer) -> tuple[Transducer, dict[str, Any]]:
    """The model of the options, which must have been trained with the units of ``tokenizer``, and what it is."""
    if args.num_threads > 0:
        torch.set_num_threads(args.num_threads)
    model, info = load_model(
        args.checkpoint or args.exp_dir,
        epoch=args.epoch,
        iteration=args.iter,
        avg=args.avg,
        use_averaged_model=args.use_averaged_model,
        device=choose_device(args.device),
    )
    check_tokenizer(info, tokenizer.fingerprint, args.lang)
    return model, info


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
    args: argparse.Namespace, model: Transducer, info: dict[str, Any], chunking: Chunking
) -> DecodeSetting:
    """What the results of real streaming are filed under."""
    setting = describe(model, info, args.decoding_method, args.beam_size, chunking)
    dtype = STATE_DTYPES[args.state_dtype] or torch.float32
    return dataclasses.replace(
        setting,
        streaming=True,
        state_dtype=args.state_dtype,
        state_bytes=setting.state_bytes * dtype.itemsize // 4,
    )
