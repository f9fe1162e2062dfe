"""``sammo timing``: where in a chunk errors happen, and how late tokens are."""

from __future__ import annotations

import argparse
from pathlib import Path

from sammo.corpora import CORPORA


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    parser.add_argument("directories", nargs="+", type=Path, metavar="DIR", help="Result directories of decode.py.")
    parser.add_argument("--alignment", type=Path, required=True, help="CTM of the parts decoded, from sammo align.")
    parser.add_argument("--corpus", help=f"{', '.join(CORPORA)} (default: the one that was decoded).")
    parser.add_argument("--out-dir", type=Path, help="Where timing.md, .json and .png go (default: the first DIR).")


def run(args: argparse.Namespace) -> int:
    """Prints the tables and writes them."""
    from sammo.evidence.command import show_timing

    show_timing(args.directories, args.alignment, args.out_dir or args.directories[0], args.corpus)
    return 0
