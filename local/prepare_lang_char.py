#!/usr/bin/env python3
"""Makes the table of character units from the training text.

The text is the disfluent one, which holds the characters of the fluent one, too. Order: <blk>, the characters sorted,
<unk>, <sos/eos>, as in icefall's CSJ recipe.

Usage: local/prepare_lang_char.py --manifest data/fbank/csj_cuts_train.jsonl.gz --lang-dir data/lang_char
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sammo.data.manifests import read_records
from sammo.data.tokens import character_table, format_token_table
from sammo.data.transcripts import select
from sammo.errors import UserError, run_main
from sammo.files import atomic_write


def training_texts(manifest: Path, mode: str) -> list[str]:
    """The texts of ``manifest`` in ``mode``, empty ones left out; UserError where none is left."""
    texts = []
    for cut in read_records(manifest):
        for supervision in cut.get("supervisions", [])[:1]:
            texts.append(select(supervision.get("text"), supervision.get("custom"), mode, cut["id"]))
    texts = [text for text in texts if text]
    if not texts:
        raise UserError(f"{manifest} holds no text in mode {mode!r}")
    return texts


def write_lang(lang_dir: Path, pieces: list[str], lang_type: str) -> None:
    """Writes tokens.txt and lang_type."""
    lang_dir.mkdir(parents=True, exist_ok=True)
    for name, content in (("lang_type", lang_type + "\n"), ("tokens.txt", format_token_table(pieces))):
        with atomic_write(lang_dir / name) as file:
            file.write(content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--lang-dir", type=Path, required=True)
    parser.add_argument("--mode", default="disfluent", help="Transcript mode to read.")
    parser.add_argument("--words", action="store_true", help="The space between words is a unit, too.")
    args = parser.parse_args()
    pieces = character_table(training_texts(args.manifest, args.mode), args.words)
    write_lang(args.lang_dir, pieces, "char")
    print(f"{args.lang_dir}/tokens.txt: {len(pieces)} units")


if __name__ == "__main__":
    run_main(main)
