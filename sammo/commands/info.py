"""``sammo info``: parameters, state size and cost of a model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from sammo.model_options import MixerOptions
from sammo.options import add_options, from_args


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    help = "A checkpoint, an experiment or a package; without one, the model that the options describe."
    parser.add_argument("model", nargs="?", type=Path, metavar="MODEL", help=help)
    add_options(parser, MixerOptions, "model", "Options left out come from the preset.")
    # That of the paper.
    parser.add_argument("--vocab-size", type=int, default=3266, help="Symbols, blank included (default: 3266).")
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(args: argparse.Namespace) -> None:
    """Prints the facts of MODEL or of the model that the options describe."""
    from sammo.transducer import Transducer
    from sammo.transducer.info import describe, show

    if args.model is not None:
        from sammo.checkpoint import load_model

        model, loaded = load_model(args.model)
        facts = describe(model, loaded.preset)
    else:
        config = from_args(MixerOptions, args).to_config(args.vocab_size)
        facts = describe(Transducer(config), args.preset)
    print(json.dumps(facts, indent=2) if args.json else show(facts))
