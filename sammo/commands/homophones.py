"""``sammo homophones``: how often words are spelled as something said seconds ago decides."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    parser.add_argument(
        "directories", nargs="+", type=Path, metavar="DIR", help="Result directories of decode.py --parts homophones."
    )
    parser.add_argument("--out-dir", type=Path, help="Where homophones.md, .json and .png go (default: the first DIR).")


def run(args: argparse.Namespace) -> int:
    """Prints the tables and writes them."""
    from sammo.evidence.command import show_homophones

    show_homophones(args.directories, args.out_dir or args.directories[0])
    return 0
