#!/usr/bin/env python3
"""Trains byte-pair units on the training text with sentencepiece.

Usage: local/train_bpe_model.py --manifest data/fbank/csj_cuts_train.jsonl.gz --lang-dir data/lang_bpe_5000 \
    --vocab-size 5000 [--mode fluent]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sammo.errors import run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--lang-dir", type=Path, required=True)
    parser.add_argument("--vocab-size", type=int, required=True)
    parser.add_argument("--mode", default="fluent", help="Transcript mode to read.")
    parser.add_argument("--words", action="store_true", help="Keep the spaces between words.")
    args = parser.parse_args()
    from sammo.preparation.units import training_texts, write_byte_pairs

    units = write_byte_pairs(args.lang_dir, training_texts(args.manifest, args.mode), args.vocab_size, args.words)
    print(f"{args.lang_dir}/bpe.model: {units} units")


if __name__ == "__main__":
    run_main(main)
