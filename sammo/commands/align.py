"""``sammo align``: when each character or word was said, by a model's CTC layer."""

from __future__ import annotations

import argparse
from pathlib import Path

from sammo.data.config import DataConfig
from sammo.options import ModelSource, Parts, add_options, from_args


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    add_options(parser, ModelSource, "model", "It sees whole utterances, and needs a CTC layer.")
    add_options(parser, Parts)
    parser.add_argument("--out", type=Path, help="The CTM file (default: EXP_DIR/alignment.ctm).")
    others = {"num_workers": 1, "on_the_fly_feats": True}
    add_options(parser, DataConfig, "data", "How batches are made of the corpus that prepare.sh wrote.", **others)


def run(args: argparse.Namespace) -> int:
    """Writes the file."""
    source, data = from_args(ModelSource, args), from_args(DataConfig, args)
    from sammo.evidence.command import align

    align(source, data, args.parts, args.out)
    return 0
