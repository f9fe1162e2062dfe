"""``sammo import-icefall``: turns a Zipformer checkpoint of icefall into one of ours."""

from __future__ import annotations

import argparse
from pathlib import Path

from sammo.options import integers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    parser.add_argument("checkpoint", type=Path, help="epoch-N.pt or pretrained.pt of icefall's zipformer recipe.")
    parser.add_argument("out", type=Path, help="File to write, FILE.pt; or a directory: writes epoch-1.pt there.")
    parser.add_argument("--key", default="model", choices=["model", "model_avg"], help="Which weights of it.")
    parser.add_argument("--lang", type=Path, help="Language directory with the units it was trained with.")
    parser.add_argument("--transcript-mode", default="fluent", help="Kind of transcripts it was trained with.")
    parser.add_argument("--pos-head-dim", type=integers, help="Per stack or one for all; by default 4.")
    parser.add_argument("--unmasked-dim", type=integers, help="--encoder-unmasked-dim of its training.")
    parser.add_argument("--feature-dim", type=int, help="Mel bins; by default 80.")
    parser.add_argument("--chunk-size", dest="chunk_sizes", type=integers, help="--chunk-size of its training.")
    parser.add_argument("--left-context-frames", type=integers, help="--left-context-frames of its training.")
    parser.add_argument("--blank-id", type=int, help="By default 0.")


def run(args: argparse.Namespace) -> None:
    """Reads, converts, checks and writes."""
    from sammo.export.icefall import import_checkpoint

    names = ("pos_head_dim", "unmasked_dim", "feature_dim", "chunk_sizes", "left_context_frames", "blank_id")
    sizes = {name: getattr(args, name) for name in names}
    import_checkpoint(args.checkpoint, args.out, args.key, args.lang, args.transcript_mode, **sizes)
