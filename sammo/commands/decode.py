"""``decode.py``: decodes whole utterances, chunks made by the attention mask (simulated streaming)."""

from __future__ import annotations

import argparse

from sammo.data.config import DataConfig
from sammo.icefall_options import COMMON, DATA, DECODE, add_icefall_options
from sammo.options import ModelSource, Parts, Results, WholeChunks, WholeSearch, add_options, from_args


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of decode.py."""
    add_options(parser, ModelSource, "model", "Its architecture is read from the checkpoint.")
    for schema in (Parts, WholeChunks, WholeSearch, Results):
        add_options(parser, schema, "decoding" if schema is Parts else "")
    # Features from the audio, as streaming_decode.py computes them: the stored ones are compressed with losses.
    others = {"transcript_mode": "", "num_workers": 1, "on_the_fly_feats": True}
    add_options(parser, DataConfig, "data", "How batches are made of the corpus that prepare.sh wrote.", **others)
    add_icefall_options(parser, COMMON, DATA, DECODE, sizes=True)


def run(args: argparse.Namespace) -> int:
    """Decodes and writes the results."""
    source, chunks, search = from_args(ModelSource, args), from_args(WholeChunks, args), from_args(WholeSearch, args)
    data, results = from_args(DataConfig, args), from_args(Results, args)
    from sammo.decoding import decode

    decode(source, chunks, search, data, args.parts, results)
    return 0
