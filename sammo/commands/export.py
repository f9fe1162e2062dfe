"""``sammo export``: a checkpoint as files that sherpa-onnx, onnxruntime and OpenVINO run."""

from __future__ import annotations

import argparse

from sammo.icefall_options import COMMON, EXPORT, add_icefall_options
from sammo.options import Exports, ModelSource, Speech, add_options, from_args


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand and of export_onnx.py."""
    without = ("device", "scan_engine", "conv_engine")
    add_options(parser, ModelSource, "model", "Its architecture is read from the checkpoint.", without)
    add_options(parser, Exports)
    about = "Training speech that the files are compared on and 8 bits are fitted to."
    add_options(parser, Speech, "data", about, without=("transcript_mode",))
    add_icefall_options(parser, COMMON, EXPORT, sizes=True)


def run(args: argparse.Namespace) -> None:
    """Exports, verifies, and only then writes."""
    source, exports, speech = from_args(ModelSource, args), from_args(Exports, args), from_args(Speech, args)
    from sammo.export.onnx import export

    export(source, exports, speech)
