#!/usr/bin/env python3
"""Trains byte-pair units on the training text with sentencepiece.

Usage: local/train_bpe_model.py --manifest data/fbank/csj_cuts_train.jsonl.gz --lang-dir data/lang_bpe_5000 \
    --vocab-size 5000 [--mode fluent]
"""

from __future__ import annotations

import argparse
import hashlib
import io
from pathlib import Path

import sentencepiece
from prepare_lang_char import training_texts, write_lang

from sammo.data.tokens import BLANK, CHECKSUM, SOS_EOS
from sammo.errors import UserError, run_main
from sammo.files import atomic_write


def train(texts: list[str], vocab_size: int, has_words: bool = False) -> bytes:
    """A serialized model: <blk> 0, <sos/eos> 1, <unk> 2, then pieces. UserError where ``vocab_size`` cannot be had.

    has_words: spaces between words are kept, and a unit that begins a word says so; otherwise they are left out.
    """
    model = io.BytesIO()
    texts = [(" " if has_words else "").join(text.split()) for text in texts]
    characters = len(set("".join(texts)))
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            vocab_size=vocab_size,
            model_type="bpe",
            # Full-width letters of Japanese text stay as they are: the references keep them.
            character_coverage=1.0,
            normalization_rule_name="identity",
            add_dummy_prefix=has_words,
            user_defined_symbols=[BLANK, SOS_EOS],
            unk_id=2,
            bos_id=-1,
            eos_id=-1,
            num_threads=1,
            minloglevel=2,
            max_sentence_length=16384,
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"no BPE model of {vocab_size} units from this text, which has {characters} characters: {reason}; "
            "pass another --vocab-sizes"
        ) from error
    return model.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--lang-dir", type=Path, required=True)
    parser.add_argument("--vocab-size", type=int, required=True)
    parser.add_argument("--mode", default="fluent", help="Transcript mode to read.")
    parser.add_argument("--words", action="store_true", help="Keep the spaces between words.")
    args = parser.parse_args()
    model = train(training_texts(args.manifest, args.mode), args.vocab_size, args.words)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    args.lang_dir.mkdir(parents=True, exist_ok=True)
    with atomic_write(args.lang_dir / "bpe.model", "wb") as file:
        file.write(model)
    with atomic_write(args.lang_dir / CHECKSUM) as file:
        file.write(hashlib.sha256(model).hexdigest() + "\n")
    write_lang(args.lang_dir, [processor.id_to_piece(i) for i in range(processor.get_piece_size())], "bpe")
    print(f"{args.lang_dir}/bpe.model: {processor.get_piece_size()} units")


if __name__ == "__main__":
    run_main(main)
