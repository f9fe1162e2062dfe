"""``sammo report``: table and figures from the results of decode.py."""

from __future__ import annotations

import argparse
from pathlib import Path

from sammo.corpora import CORPORA
from sammo.options import integers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    parser.add_argument("directories", nargs="+", type=Path, metavar="DIR", help="Result directories of decode.py.")
    parser.add_argument("--out-dir", type=Path, help="Where the table and figures go (default: the first DIR).")
    parser.add_argument("--corpus", help=f"{', '.join(CORPORA)} (default: the one that was decoded).")
    parser.add_argument(
        "--pool-seeds",
        action="store_true",
        help='One row, mean and spread, for experiments whose paths differ only in a number behind "seed".',
    )
    parser.add_argument(
        "--average-at",
        type=_chunk_and_left,
        metavar="CHUNK,LEFT",
        help="Where several averages were decoded, choose one for all settings, on the validation part at this chunk "
        "and left context; the original experiment: 32,256 (default: the best for each setting).",
    )
    parser.add_argument("--memory", type=Path, help="memory.json of sammo memory, for the error rate without state.")
    parser.add_argument("--statistics", type=Path, help="statistics.json of prepare.sh, for the sentence overlap.")


def _chunk_and_left(text: str) -> tuple[int, int]:
    """argparse type: "32,256" -> (32, 256)."""
    found = integers(text)
    if len(found) != 2:
        raise argparse.ArgumentTypeError(f"expected a chunk and a left context, 32,256, got {text!r}")
    return found[0], found[1]


def run(args: argparse.Namespace) -> None:
    """Writes the report and prints its table."""
    from sammo.scoring.report import write_report

    out_dir = args.out_dir or args.directories[0]
    others = (args.statistics, args.corpus, args.pool_seeds, args.memory, args.average_at)
    paths = write_report(args.directories, out_dir, *others)
    print(paths["table"].read_text(encoding="utf-8"))
    for kind, path in paths.items():
        print(f"{kind}: {path}")
