"""What ``sammo ngram`` does: a language model from the training text of a corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

from sammo.corpora import find_corpus
from sammo.data.tokens import BLANK, SOS_EOS, find_lang, load_tokenizer
from sammo.errors import UserError
from sammo.lm import NgramLM, perplexity, write_witten_bell
from sammo.options import Speech
from sammo.preparation.units import training_texts


def train_ngram(out: Path, order: int, speech: Speech, lang: Path | None, texts: Sequence[Path]) -> str:
    """Writes ``out``, of the units in ``lang`` or the corpus's, and returns a line about it.

    Args:
      texts: files with further sentences, one a line.

    Raises:
      UserError: no corpus, no units, no text.
    """
    corpus = find_corpus(speech.manifest_dir, speech.corpus)
    tokenizer = load_tokenizer(find_lang(lang, speech.manifest_dir, corpus))
    mode = speech.transcript_mode or corpus.default_mode
    sentences = training_texts(corpus.manifest_path(speech.manifest_dir, corpus.train), mode)
    for path in texts:
        sentences += _lines(path)
    pieces = [tokenizer.piece(index) for index in range(tokenizer.vocab_size)]
    encoded = ([pieces[index] for index in tokenizer.encode(text)] for text in sentences)
    units = [piece for piece in pieces if piece not in (BLANK, SOS_EOS)]
    out.parent.mkdir(parents=True, exist_ok=True)
    counts = write_witten_bell(out, encoded, units, order)
    line = f"{out}: {', '.join(f'{count} {n}-grams' for n, count in enumerate(counts, start=1))}"
    valid = corpus.manifest_path(speech.manifest_dir, corpus.valid)
    if valid.is_file():
        held_out = [tokenizer.encode(text) for text in training_texts(valid, mode)]
        found = perplexity(NgramLM(out, pieces, tokenizer.unk_id), held_out)
        line += f"; perplexity of {corpus.valid}: {found:.2f} a unit, of {len(units)} units"
    return line


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except FileNotFoundError as error:
        raise UserError(f"no text {path}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start})") from error
