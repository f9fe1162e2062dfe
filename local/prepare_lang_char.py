#!/usr/bin/env python3
"""Makes the table of character units from the training text.

The text is the disfluent one, which holds the characters of the fluent one, too. Order: <blk>, the characters sorted,
<unk>, <sos/eos>, as in icefall's CSJ recipe.

Usage: local/prepare_lang_char.py --manifest data/fbank/csj_cuts_train.jsonl.gz --lang-dir data/lang_char
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sammo.errors import run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--lang-dir", type=Path, required=True)
    parser.add_argument("--mode", default="disfluent", help="Transcript mode to read.")
    parser.add_argument("--words", action="store_true", help="The space between words is a unit, too.")
    args = parser.parse_args()
    from sammo.preparation.units import training_texts, write_characters

    units = write_characters(args.lang_dir, training_texts(args.manifest, args.mode), args.words)
    print(f"{args.lang_dir}/tokens.txt: {units} units")


if __name__ == "__main__":
    run_main(main)
