"""ARPA files: text with an n-gram a line, its log10 probability before it and the log10 of its backoff weight behind."""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path
from typing import IO, Iterable, Iterator, Mapping, NamedTuple, Sequence

import numpy as np

from sammo.errors import UserError
from sammo.files import atomic_write
from sammo.progress import progress

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
NEVER = -99.0  # the log10 probability of BEGIN, which is no event
FARTHEST = 1000.0  # from 0: what a log10 probability or weight may be, which programs write down to -100 or so
LONGEST_LINE = 1 << 16  # characters
HIGHEST_ORDER = 20
_COUNT = re.compile(r"ngram (\d{1,2})\s*=\s*(\d{1,12})", re.ASCII)


class Grams(NamedTuple):
    """The K n-grams of one order: units (K, n) int64, log10 probabilities (K,) and backoff weights (K,), 0 for none."""

    units: np.ndarray
    log_probs: np.ndarray
    backoffs: np.ndarray


def read_arpa(path: Path, ids: Mapping[str, int]) -> list[Grams]:
    """The n-grams of ``path`` whose words all have an id, by order from 1; those with others are left out.

    Raises:
      UserError: no such file, no ARPA, damaged or cut short.
    """
    if not path.is_file():
        raise UserError(f"no language model {path}; sammo ngram makes one from the training text")
    try:
        with open(path, encoding="utf-8") as file:
            return _parse(progress(_lines(file), desc=f"reading {path.name}"), ids)
    except (ValueError, StopIteration) as error:  # a UnicodeDecodeError is a ValueError, too
        reason = str(error) or "it ends early"
        raise UserError(
            f"{path} is no whole ARPA language model ({reason}); make it again, sammo ngram does"
        ) from error


def _lines(file: IO[str]) -> Iterator[tuple[int, str]]:
    number = 0
    while line := file.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE:
            raise ValueError(f"line {number} is longer than any n-gram")
        if line := line.strip():
            yield number, line


def _parse(lines: Iterator[tuple[int, str]], ids: Mapping[str, int]) -> list[Grams]:
    while next(lines)[1] != "\\data\\":
        pass
    counts: list[int] = []
    number, line = next(lines)
    while match := _COUNT.fullmatch(line):
        if int(match[1]) != len(counts) + 1 or len(counts) == HIGHEST_ORDER:
            raise ValueError(f"line {number}: {line}")
        counts.append(int(match[2]))
        number, line = next(lines)
    if not counts:
        raise ValueError(f"line {number}: expected 'ngram 1=COUNT', found {line[:80]!r}")
    found = []
    for order, count in enumerate(counts, start=1):
        if line != f"\\{order}-grams:":
            raise ValueError(f"line {number}: expected \\{order}-grams:, found {line[:80]!r}")
        units: list[int] = []
        numbers: list[tuple[float, float]] = []
        seen = 0
        for number, line in lines:
            if line.startswith("\\"):
                break
            seen += 1
            words, scores = _entry(number, line, order)
            known = [ids[word] for word in words if word in ids]
            if len(known) == order:
                units += known
                numbers.append(scores)
        else:
            raise ValueError("it ends early")
        if seen != count:
            raise ValueError(f"{seen} {order}-grams, {count} announced")
        log_probs, backoffs = np.array(numbers, np.float64).reshape(-1, 2).T
        found.append(Grams(np.array(units, np.int64).reshape(-1, order), log_probs, backoffs))
    if line != "\\end\\":
        raise ValueError(f"line {number}: expected \\end\\, found {line[:80]!r}")
    return found


def _entry(number: int, line: str, order: int) -> tuple[list[str], tuple[float, float]]:
    fields = line.split()
    if len(fields) not in (order + 1, order + 2):
        raise ValueError(f"line {number}: expected a probability, {order} words and perhaps a weight: {line[:80]!r}")
    try:
        log_prob, backoff = float(fields[0]), float(fields[-1]) if len(fields) == order + 2 else 0.0
    except ValueError:
        log_prob, backoff = math.nan, math.nan
    if not (-FARTHEST <= log_prob <= 0 and abs(backoff) <= FARTHEST):
        raise ValueError(f"line {number}: {line[:80]!r} has no log10 probability or weight")
    return fields[1 : order + 1], (log_prob, backoff)


def write_arpa(path: Path, orders: Sequence[Iterable[tuple[Sequence[str], float, float | None]]]) -> None:
    """Writes (words, log10 probability, log10 backoff weight or None), a list an order from 1; whole or not at all."""
    with atomic_write(path) as file:
        listed = [list(order) for order in orders]
        print("\\data\\", *(f"ngram {n}={len(order)}" for n, order in enumerate(listed, start=1)), sep="\n", file=file)
        for n, order in enumerate(listed, start=1):
            print(f"\n\\{n}-grams:", file=file)
            for words, log_prob, backoff in order:
                weight = "" if backoff is None else f"\t{backoff:.7f}"
                print(f"{log_prob:.7f}\t{' '.join(words)}{weight}", file=file)
        print("\n\\end\\", file=file)


def file_digest(path: Path) -> str:
    """8 hex digits that tell files apart."""
    if not path.is_file():
        raise UserError(f"no language model {path}")
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()[:8]
