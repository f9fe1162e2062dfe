"""Hotwords from a file: a phrase a line, with a score of its own behind a colon if it is to have one."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Callable

from sammo.errors import UserError
from sammo.search.context_graph import ContextGraph

MOST_SCORE = 100.0  # a token's log-probability is hardly ever below it: more would write the hotwords everywhere
LARGEST = 1 << 24  # bytes of a file
_SCORED = re.compile(r"^(.*?)\s+:(\S+)$")


def read_hotwords(path: Path, score: float, encode: Callable[[str], list[int]], unknown: int) -> ContextGraph:
    """The context graph of the phrases in ``path``.

    A line is "PHRASE" or "PHRASE :SCORE", as sherpa-onnx reads it; empty lines are left out.

    Args:
      path: of the file, UTF-8.
      score: reward of each token of a phrase without a score of its own, in log-probability.
      encode: text to token ids.
      unknown: the id that ``encode`` gives what is no unit.

    Raises:
      UserError: no such file, no phrase in it, a score that is no number, a phrase that the units cannot write.
    """
    _check_score("--hotwords-score", score)
    phrases, scores = [], []
    for number, line in enumerate(_read(path).split("\n"), start=1):
        match = _SCORED.match(line.strip())
        phrase, own = match.groups() if match else (line.strip(), "0")
        if not phrase:
            continue
        try:
            scores.append(float(own))
        except ValueError:
            raise UserError(f"{path}, line {number}: the score {own!r} is no number") from None
        if match:
            _check_score(f"{path}, line {number}: a score", scores[-1])
        tokens = encode(phrase)
        if not tokens or unknown in tokens:
            raise UserError(f"{path}, line {number}: {phrase!r} has letters that the model has no units for; remove it")
        phrases.append(tokens)
    if not phrases:
        raise UserError(f"{path} holds no hotwords; write a phrase a line")
    return ContextGraph(phrases, score, scores)


def hotwords_digest(path: Path) -> str:
    """8 hex digits that tell files of hotwords apart."""
    return hashlib.sha256(_read(path).encode()).hexdigest()[:8]


def _read(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"no file of hotwords {path}")
    if path.stat().st_size > LARGEST:
        raise UserError(f"{path} is larger than {LARGEST >> 20} MiB, too large for hotwords")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start})") from error


def _check_score(what: str, value: float) -> None:
    if not 0 < value <= MOST_SCORE:
        raise UserError(f"{what} must be above 0 and at most {MOST_SCORE:g}, got {value:g}")
