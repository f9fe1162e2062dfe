"""``sammo ngram``: an n-gram language model of the output units, for --lm."""

from __future__ import annotations

import argparse
from pathlib import Path

from sammo.options import Speech, add_options, check_range, from_args


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    parser.add_argument("--out", type=Path, required=True, help="The ARPA file to write.")
    parser.add_argument("--order", type=int, default=3, help="Units of the longest n-grams (default: 3).")
    parser.add_argument("--text", type=Path, nargs="*", default=[], help="More text, a sentence a line, UTF-8.")
    parser.add_argument("--lang", "--lang-dir", type=Path, help="Language directory (default: the corpus's).")
    add_options(parser, Speech, without=("allow_urls",))


def run(args: argparse.Namespace) -> int:
    """Estimates the model from the transcripts of the training part and writes it."""
    check_range("--order", args.order, 1, 20, "longer n-grams hardly occur twice")
    speech = from_args(Speech, args)
    from sammo.preparation.ngram import train_ngram

    print(train_ngram(args.out, args.order, speech, args.lang, args.text))
    return 0
