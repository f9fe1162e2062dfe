"""``sammo export``: a checkpoint as ONNX files that sherpa-onnx and ``--runtime onnxruntime`` run."""

from __future__ import annotations

import argparse
from pathlib import Path

from sammo.options import ModelSource, add_options, from_args


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand and of export_onnx.py."""
    without = ("device", "scan_engine", "conv_engine")
    add_options(parser, ModelSource, "model", "Its architecture is read from the checkpoint.", without)
    parser.add_argument("--chunk-size", type=int, default=32, help="Frames of 20 ms a chunk (default: 32).")
    parser.add_argument("--out-dir", type=Path, required=True, help="Directory to write.")
    help = "Also write encoder.int8.onnx and joiner.int8.onnx, with linear layers in 8 bits."
    parser.add_argument("--int8", action="store_true", help=help)


def run(args: argparse.Namespace) -> None:
    """Exports, verifies, and only then writes."""
    source = from_args(ModelSource, args)
    from sammo.export.onnx import export

    export(source, args.chunk_size, args.out_dir, args.int8)
