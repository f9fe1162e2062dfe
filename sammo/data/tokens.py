"""Output units: characters (tokens.txt) or byte-pair encoding (bpe.model)."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Iterable, Protocol

from sammo.corpora import Corpus
from sammo.errors import UserError

BLANK = "<blk>"
UNKNOWN = "<unk>"
SOS_EOS = "<sos/eos>"
CHECKSUM = "bpe.model.sha256"  # beside the model, written with it; language directories of others have none
SPECIAL = (BLANK, UNKNOWN, SOS_EOS)
SPACE = "\u2581"  # the space between words as a unit, or at the start of one, as sentencepiece writes it

_TABLE_LINE = re.compile(r"^(.+?)[ \t]+(\d{1,9})$", re.ASCII)


class Tokenizer(Protocol):
    """What training and decoding need of a set of output units.

    ``fingerprint`` (sha256 in hex) is the same for two tables exactly when they hold the same units
    under the same ids, so a checkpoint can tell whether it was trained with this table. ``has_words`` tells
    whether decoded text has spaces between words.
    """

    kind: str
    vocab_size: int
    blank_id: int
    unk_id: int
    has_words: bool
    fingerprint: str

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Iterable[int]) -> str: ...

    def piece(self, token_id: int) -> str: ...


class CharTokenizer:
    """One unit a character; characters outside of the table become ``<unk>``.

    Where the table has the unit SPACE, it stands between words; otherwise white space is no unit.

    Args:
      pieces: the units in the order of their ids, blank first.
    """

    kind = "char"

    def __init__(self, pieces: list[str]):
        self._pieces = pieces
        self._ids = {piece: index for index, piece in enumerate(pieces)}
        self.vocab_size = len(pieces)
        self.blank_id = self._ids[BLANK]
        self.unk_id = self._ids[UNKNOWN]
        self.fingerprint = _fingerprint(self.kind, pieces)
        self.has_words = SPACE in self._ids
        self._silent = {self._ids[name] for name in (BLANK, SOS_EOS) if name in self._ids}

    def encode(self, text: str) -> list[int]:
        units = (SPACE if self.has_words else "").join(text.split())
        return [self._ids.get(unit, self.unk_id) for unit in units]

    def decode(self, ids: Iterable[int]) -> str:
        text = "".join(self._pieces[index] for index in ids if index not in self._silent)
        return " ".join(text.replace(SPACE, " ").split()) if self.has_words else text

    def piece(self, token_id: int) -> str:
        return self._pieces[token_id]


class BpeTokenizer:
    """Units of a sentencepiece model trained by local/train_bpe_model.py.

    Where some of them begin with SPACE, text is words with spaces between them; otherwise white space is left out.
    """

    kind = "bpe"

    def __init__(self, model: Path):
        import sentencepiece

        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.Load(str(model))
            self.vocab_size = self._processor.get_piece_size()
            pieces = [self.piece(index) for index in range(self.vocab_size)]
        except Exception as error:  # its bindings raise what they like, and a damaged piece may be no UTF-8
            raise UserError(f"{model} is not a sentencepiece model; make it again with prepare.sh") from error
        self.blank_id = self._processor.piece_to_id(BLANK)
        self.unk_id = self._processor.unk_id()
        if self.blank_id != 0 or pieces[0] != BLANK:
            raise UserError(f"{model}: unit 0 must be {BLANK}; train the model with local/train_bpe_model.py")
        self.has_words = any(SPACE in piece for piece in pieces)
        # Two models may share their pieces and still cut a text differently: the scores decide that.
        scores = [f"{piece}\t{self._processor.get_score(index):.6g}" for index, piece in enumerate(pieces)]
        self.fingerprint = _fingerprint(self.kind, scores)

    def encode(self, text: str) -> list[int]:
        return self._processor.encode((" " if self.has_words else "").join(text.split()))

    def decode(self, ids: Iterable[int]) -> str:
        pieces = [int(index) for index in ids if index != self.blank_id]
        return (" " if self.has_words else "").join(self._processor.decode(pieces).split())

    def piece(self, token_id: int) -> str:
        return self._processor.id_to_piece(token_id)


def load_tokenizer(lang_dir: str | Path) -> Tokenizer:
    """Reads the units in ``lang_dir``: ``bpe.model``, or ``tokens.txt`` with characters.

    ``lang_dir/lang_type`` ("char" or "bpe"), where it is there, decides which of the two.

    Raises:
      UserError: the directory, the table or the blank is missing or malformed.
    """
    lang_dir = Path(lang_dir)
    if not lang_dir.is_dir():
        raise UserError(f"no language directory {lang_dir}; make it with prepare.sh or pass another --lang")
    marker = lang_dir / "lang_type"
    if marker.is_file():
        lang_type = marker.read_bytes()[:100].decode("utf-8", "replace").strip()
    else:
        lang_type = "bpe" if (lang_dir / "bpe.model").is_file() else "char"
    if lang_type not in ("char", "bpe"):
        raise UserError(f"{marker}: unknown lang type {lang_type!r}; it is char or bpe")
    path = lang_dir / ("bpe.model" if lang_type == "bpe" else "tokens.txt")
    if not path.is_file():
        raise UserError(f"no {path}; make it with prepare.sh or pass another --lang")
    if lang_type == "char":
        return CharTokenizer(read_token_table(path))
    checksum = lang_dir / CHECKSUM
    # Its pieces and scores are in the fingerprint; its normalization, which decides as much, is only in the checksum.
    if (
        checksum.is_file()
        and checksum.read_text("utf-8", "replace").strip() != hashlib.sha256(path.read_bytes()).hexdigest()
    ):
        raise UserError(f"{path} is damaged: its checksum is not that in {CHECKSUM}; make it again with prepare.sh")
    return BpeTokenizer(path)


def find_lang(lang: Path | None, manifest_dir: Path, corpus: Corpus) -> Path:
    """``lang``, or without it the units of the corpus's kind that lie beside ``manifest_dir``, or the only ones there.

    Raises:
      UserError: several sets of units lie there, and none is the usual one.
    """
    if lang is not None:
        return lang
    data_dir = Path(manifest_dir).parent
    own = data_dir / "lang_char"
    found = sorted(path for path in data_dir.glob("lang_*") if path.is_dir())
    of_kind = [path for path in found if path.name.startswith(f"lang_{corpus.unit}")]
    if corpus.unit == "char" and own in found:
        return own
    if len(of_kind or found) > 1:
        names = ", ".join(map(str, of_kind or found))
        raise UserError(f"{corpus.name} has several sets of units, {names}; choose one by --lang")
    return (of_kind or found or [data_dir / f"lang_{corpus.unit}"])[0]


def read_token_table(path: str | Path) -> list[str]:
    """Reads lines "unit<tab or space>id" and returns the units in the order of their ids.

    Raises:
      UserError: anything but ids 0..V-1, each once, units each once, the blank as unit 0 and ``<unk>`` somewhere; it names
        the line.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); make it again with prepare.sh") from error
    by_id: dict[int, str] = {}
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip("\r"):
            continue
        match = _TABLE_LINE.match(line.strip("\r"))
        if match is None:
            raise UserError(f"{path}, line {number}: expected 'unit id', found {line!r}")
        piece, index = match.group(1), int(match.group(2))
        if piece in seen:
            raise UserError(f"{path}, line {number}: unit {piece!r} is already in line {seen[piece]}")
        if index in by_id:
            raise UserError(f"{path}, line {number}: id {index} already belongs to {by_id[index]!r}")
        seen[piece] = number
        by_id[index] = piece
    if not by_id:
        raise UserError(f"{path} is empty; make it again with prepare.sh")
    gap = next((i for i in range(len(by_id)) if i not in by_id), None)
    if gap is not None:
        raise UserError(f"{path}: ids must run from 0 to {len(by_id) - 1} without a gap, but {gap} is missing")
    if by_id[0] != BLANK:
        raise UserError(f"{path}: unit 0 must be {BLANK}, found {by_id[0]!r}")
    if UNKNOWN not in seen:
        raise UserError(f"{path}: the unit {UNKNOWN} is missing")
    return [by_id[i] for i in range(len(by_id))]


def character_table(texts: Iterable[str], has_words: bool = False) -> list[str]:
    """The units of ``texts`` in the order of the CSJ recipe: blank, characters sorted, unknown, sos/eos.

    Args:
      texts: of the training part.
      has_words: the space between words is a unit, SPACE, and sorted among the characters.
    """
    characters: set[str] = {SPACE} if has_words else set()
    for text in texts:
        characters.update("".join(text.split()))
    return [BLANK, *sorted(characters), UNKNOWN, SOS_EOS]


def format_token_table(pieces: list[str]) -> str:
    """The content of tokens.txt for ``pieces`` in the order of their ids."""
    return "".join(f"{piece}\t{index}\n" for index, piece in enumerate(pieces))


def _fingerprint(kind: str, pieces: list[str]) -> str:
    return hashlib.sha256("\n".join([kind, *pieces]).encode("utf-8")).hexdigest()
