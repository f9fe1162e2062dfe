#!/usr/bin/env python3
"""Checks cut manifests: one supervision a cut, inside of the cut, with text; features of 80 bins, all of them stored.

Usage: local/validate_manifest.py data/fbank/csj_cuts_train.jsonl.gz ... [--lang data/lang_char] [--mode fluent]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sammo.errors import run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("manifests", type=Path, nargs="+")
    parser.add_argument("--lang", type=Path, help="Units to count symbols with.")
    parser.add_argument("--mode", default="fluent", help="Transcript mode to check.")
    args = parser.parse_args()
    from sammo.data.tokens import load_tokenizer
    from sammo.preparation.validation import validate

    tokenizer = None if args.lang is None else load_tokenizer(args.lang)
    for manifest in args.manifests:
        print(validate(manifest, tokenizer, args.mode))


if __name__ == "__main__":
    run_main(main)
