"""``sammo probe``: over how many seconds do encoders remember? Minutes, and no speech."""

from __future__ import annotations

import argparse

from sammo.model_options import ModelOptions
from sammo.options import add_options, from_args
from sammo.probe.config import DEFAULTS, WITHOUT, ProbeConfig
from sammo.training.config import TrainConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand; chunk sizes and left contexts are those to train with and to measure."""
    add_options(parser, ProbeConfig, "task", "Delays are seconds from the end of the cue to the event.")
    sizes = {"preset": "tiny", "chunk_size": (16, 32, 64, 128), "left_context_frames": (64, 128)}
    add_options(parser, ModelOptions, "model", "Options left out come from the preset.", ("encoder",), **sizes)
    add_options(parser, TrainConfig, "training", None, WITHOUT, **DEFAULTS)


def run(args: argparse.Namespace) -> int:
    """Trains, measures, prints the table and writes it; 0, or 130 after Ctrl-C."""
    probe, model, training = from_args(ProbeConfig, args), from_args(ModelOptions, args), from_args(TrainConfig, args)
    from sammo.probe.run import run_probe

    return run_probe(probe, model, training)
