"""``sammo doctor``: lists engines and tries each against its reference."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    parser.add_argument("--device", help="Device to look at (default: cuda if there is one).")


def run(args: argparse.Namespace) -> int:
    """Prints the findings; 1 if an engine that can run gives wrong numbers or fails."""
    from sammo.doctor import examine

    return examine(args.device)
