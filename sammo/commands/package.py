"""``sammo package``: a trained model as a directory to pass on, with its units, card and checksums."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from pathlib import Path

from sammo.export.options import PackageOptions
from sammo.options import ModelSource, Speech, add_options, from_args, shown

WITHOUT = ("exp_dir", "checkpoint", "device", "num_threads", "scan_engine", "conv_engine")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="Experiment directory, checkpoint or package.")
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="Directory to write; a package that is there is replaced."
    )
    add_options(parser, ModelSource, "model", "Which checkpoints of an experiment.", WITHOUT)
    add_options(parser, PackageOptions, "package")
    about = "Training speech that exports are compared on and 8 bits are fitted to."
    add_options(parser, Speech, "data", about, without=("transcript_mode",))


def run(args: argparse.Namespace) -> None:
    """Writes the package, whole or not at all."""
    where = "checkpoint" if args.model.is_file() else "exp_dir"
    source = dataclasses.replace(from_args(ModelSource, args), device="cpu", **{where: args.model})
    options = from_args(PackageOptions, args)
    from sammo.export.package import package

    package(source, args.out, options, _command(args), from_args(Speech, args))


def _command(args: argparse.Namespace) -> str:
    """What was typed, as the card shows it."""
    words = ["sammo", "package", str(args.model), str(args.out)]
    for item in (*dataclasses.fields(ModelSource), *dataclasses.fields(PackageOptions), *dataclasses.fields(Speech)):
        value = getattr(args, item.name, item.default)
        if item.name in WITHOUT or value == item.default:
            continue
        words.append("--" + item.name.replace("_", "-"))
        if not item.metadata["flag"]:
            words.append(shown(value))
    return shlex.join(words)
