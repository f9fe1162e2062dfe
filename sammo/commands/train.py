"""``train.py``: trains an encoder with its transducer."""

from __future__ import annotations

import argparse

from sammo.data.config import DataConfig
from sammo.icefall_options import COMMON, DATA, TRAIN, add_icefall_options
from sammo.model_options import ModelOptions
from sammo.options import add_options, from_args
from sammo.training.config import TrainConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of train.py."""
    add_options(parser, ModelOptions, "model", "Options left out come from the preset.")
    add_options(parser, TrainConfig, "training")
    add_options(parser, DataConfig, "data", "How batches are made of the corpus that prepare.sh wrote.")
    add_icefall_options(parser, COMMON, DATA, TRAIN)


def run(args: argparse.Namespace) -> int:
    """Trains; 0, or 130 after Ctrl-C."""
    model, config, data = from_args(ModelOptions, args), from_args(TrainConfig, args), from_args(DataConfig, args)
    from sammo.training.run import run

    return run(model, config, data)
