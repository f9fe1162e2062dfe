#!/usr/bin/env python3
"""Prints sizes of the parts, their characters, and how much of the test text was seen in training.

Writes the same as manifest_statistics.txt and statistics.json into the manifest directory.

Usage: local/display_manifest_statistics.py --manifest-dir data/fbank --supervision-dir data/manifests [--mode fluent]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sammo.corpora import find_corpus
from sammo.errors import run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--manifest-dir", type=Path, required=True)
    parser.add_argument("--supervision-dir", type=Path, help="lhotse's manifests of CSJ.")
    parser.add_argument("--mode", help="Transcript mode to read (default: the corpus's).")
    args = parser.parse_args()
    from sammo.preparation.statistics import write_statistics

    corpus = find_corpus(args.manifest_dir)
    mode = corpus.default_mode if args.mode is None else args.mode
    print(write_statistics(corpus, args.manifest_dir, args.supervision_dir or args.manifest_dir, mode), end="")


if __name__ == "__main__":
    run_main(main)
