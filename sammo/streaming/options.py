"""Options that the streaming commands share, and what they make of them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from sammo.data.datamodule import parse_bool
from sammo.data.tokens import Tokenizer
from sammo.encoder.state import state_leaves, state_numel
from sammo.errors import UserError
from sammo.scoring import DecodeSetting
from sammo.search import Searcher, make_searcher
from sammo.training.loading import check_tokenizer, load_model
from sammo.transducer import Transducer

STATE_DTYPES = {"float32": None, "float16": torch.float16, "bfloat16": torch.bfloat16}
METHODS = ("greedy_search", "modified_beam_search")


def integers(text: str) -> list[int]:
    """argparse type: "16,32" -> [16, 32]."""
    try:
        return [int(item) for item in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected integers separated by commas, got {text!r}") from None


def names(text: str) -> list[str]:
    """argparse type: "eval1,eval2" -> ["eval1", "eval2"]."""
    return [item for item in text.split(",") if item]


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, as icefall's decoding scripts name it."""
    group = parser.add_argument_group("model")
    group.add_argument("--checkpoint", type=Path, help="A checkpoint file; otherwise --exp-dir with --epoch or --iter.")
    group.add_argument("--exp-dir", type=Path, help="Directory that train.py wrote.")
    group.add_argument("--epoch", type=int, default=0, help="Checkpoint epoch-N.pt (default: the newest checkpoint).")
    group.add_argument("--iter", type=int, default=0, help="Checkpoint checkpoint-N.pt instead.")
    group.add_argument("--avg", type=int, default=1, help="Checkpoints to average over (default: 1).")
    group.add_argument(
        "--use-averaged-model", type=parse_bool, default=True, help="Average over all batches in between (default: true)."
    )
    group.add_argument("--lang", type=Path, default=Path("data/lang_char"), help="Directory of the output units.")
    group.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: cpu)")


def add_search_arguments(parser: argparse.ArgumentParser) -> None:
    """How to search, and in which type to keep the states."""
    group = parser.add_argument_group("search")
    group.add_argument("--decoding-method", choices=METHODS, default="greedy_search", help="(default: greedy_search)")
    group.add_argument("--beam-size", type=int, default=4, help="Of modified_beam_search (default: 4).")
    group.add_argument(
        "--state-dtype",
        choices=list(STATE_DTYPES),
        default="float32",
        help="Type in which the encoder's state is kept between chunks (default: float32).",
    )


def load_model_for(args: argparse.Namespace, tokenizer: Tokenizer) -> tuple[Transducer, dict[str, Any]]:
    """The model of the options, which must have been trained with the units of ``tokenizer``, and what it is."""
    if (args.checkpoint is None) == (args.exp_dir is None):
        raise UserError("give either --checkpoint FILE or --exp-dir DIR")
    try:
        device = torch.device(args.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {args.device} cannot be used: {str(error).splitlines()[0]}") from error
    if args.checkpoint is not None:
        path, options = args.checkpoint, {}
    else:
        path, options = args.exp_dir, {"epoch": args.epoch, "iteration": args.iter, "avg": args.avg}
    model, info = load_model(path, use_averaged_model=args.use_averaged_model, device=device, **options)
    check_tokenizer(info, tokenizer.fingerprint, args.lang)
    return model, info


def searcher_for(args: argparse.Namespace, model: Transducer) -> Searcher:
    """The search of the options."""
    return make_searcher(model, args.decoding_method, args.beam_size)


def settings(model: Transducer, chunk_sizes: list[int], left_context_frames: list[int]) -> list[tuple[int, int]]:
    """The (chunk size, left context) pairs to run; UserError where the model cannot do one of them.

    Sammo has no left context: each chunk size once.
    """
    if model.config.encoder.name == "sammo":
        left_context_frames = [0]
    pairs = [(chunk, left) for chunk in chunk_sizes for left in left_context_frames]
    for chunk, left in pairs:
        if chunk <= 0:
            raise UserError(f"streaming needs chunk sizes above 0, got {chunk}")
        model.encoder.check_chunk_size(chunk, left)
    return pairs


def decode_setting(
    args: argparse.Namespace, model: Transducer, info: dict[str, Any], chunk_size: int, left_context_frames: int
) -> DecodeSetting:
    """What the results of real streaming are filed under."""
    state = model.encoder.init_state(1, left_context_frames)
    counters = sum(8 for leaf in state_leaves(state) if not leaf.is_floating_point())
    dtype = STATE_DTYPES[args.state_dtype] or torch.float32
    return DecodeSetting(
        encoder=info["encoder"],
        preset=info["preset"],
        method=args.decoding_method,
        beam_size=args.beam_size,
        chunk_size=chunk_size,
        left_context_frames=left_context_frames,
        epoch=info["epoch"],
        avg=info["avg"],
        use_averaged_model=info["use_averaged_model"],
        d_state=model.config.encoder.d_state,
        state_dtype=args.state_dtype,
        state_bytes=state_numel(state) * dtype.itemsize + counters,
        streaming=True,
        checkpoint=info["checkpoint"],
    )
