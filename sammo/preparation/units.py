"""Output units from the training text: characters, or byte pairs by sentencepiece."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

from sammo.data.manifests import read_records
from sammo.data.tokens import BLANK, CHECKSUM, SOS_EOS, character_table, format_token_table
from sammo.data.transcripts import select
from sammo.errors import UserError
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


def write_characters(lang_dir: Path, texts: list[str], has_words: bool = False) -> int:
    """Writes the table of the characters of ``texts`` and returns how many units it has.

    Args:
      lang_dir: where it goes.
      texts: of the training part.
      has_words: the space between words is a unit, too.
    """
    pieces = character_table(texts, has_words)
    _write_lang(lang_dir, pieces, "char")
    return len(pieces)


def write_byte_pairs(lang_dir: Path, texts: list[str], vocab_size: int, has_words: bool = False) -> int:
    """The same for byte pairs: trains a model on ``texts``. UserError where ``vocab_size`` cannot be had."""
    import sentencepiece

    model = train_byte_pairs(texts, vocab_size, has_words)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    lang_dir.mkdir(parents=True, exist_ok=True)
    with atomic_write(lang_dir / "bpe.model", "wb") as file:
        file.write(model)
    with atomic_write(lang_dir / CHECKSUM) as file:
        file.write(hashlib.sha256(model).hexdigest() + "\n")
    pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    _write_lang(lang_dir, pieces, "bpe")
    return len(pieces)


def train_byte_pairs(texts: list[str], vocab_size: int, has_words: bool = False) -> bytes:
    """A serialized model: <blk> 0, <sos/eos> 1, <unk> 2, then pieces.

    Args:
      texts: of the training part.
      vocab_size: pieces, those three included.
      has_words: spaces between words are kept, and a unit that begins a word says so; otherwise they are left out.

    Raises:
      UserError: so many pieces cannot be had from these texts.
    """
    import sentencepiece

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


def _write_lang(lang_dir: Path, pieces: list[str], lang_type: str) -> None:
    """Writes tokens.txt and lang_type."""
    lang_dir.mkdir(parents=True, exist_ok=True)
    for name, content in (("lang_type", lang_type + "\n"), ("tokens.txt", format_token_table(pieces))):
        with atomic_write(lang_dir / name) as file:
            file.write(content)
