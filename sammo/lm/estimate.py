"""N-gram models by interpolated Witten-Bell smoothing (Witten and Bell, IEEE Trans. Information Theory 37(4), 1991).

P(w | h) = (c(hw) + t(h) P(w | h')) / (c(h) + t(h)), with c counts, t(h) the number of different units seen after h, and h'
without its oldest unit. A model of units has few of them: the counts of counts that Kneser-Ney smoothing is estimated
from do not exist for characters, all of which are frequent.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Iterable, Sequence

from sammo.lm.arpa import BEGIN, END, NEVER, write_arpa

Gram = tuple[str, ...]


def write_witten_bell(path: Path, sentences: Iterable[Sequence[str]], units: Sequence[str], order: int) -> list[int]:
    """Estimates a model from ``sentences`` of unit names and writes it as ARPA.

    Args:
      units: all that can occur; those without a count share what is left for them evenly.
      order: 1 for unigrams, and so on.

    Returns:
      The number of n-grams of each order.
    """
    counts = count(sentences, order)
    events = sorted({*units, END})
    totals: list[Counter[Gram]] = [Counter() for _ in counts]  # c(h), by the length of h
    types: list[Counter[Gram]] = [Counter() for _ in counts]  # t(h)
    for length, grams in enumerate(counts):
        for gram, number in grams.items():
            totals[length][gram[:-1]] += number
            types[length][gram[:-1]] += 1
    below: dict[Gram, float] = {(): 1.0 / len(events)}
    tables = []
    for length, grams in enumerate(counts):
        listed = sorted(grams) if length else [(unit,) for unit in events]
        above: dict[Gram, float] = {}
        for gram in listed:
            context = gram[:-1]
            seen, kinds = totals[length][context], types[length][context]
            above[gram] = (grams[gram] + kinds * below[gram[1:] if length else ()]) / max(seen + kinds, 1)
        tables.append(above)
        below = above
    rows = []
    for length, table in enumerate(tables, start=1):
        kept = types[length] if length < order else {}
        entries = [
            (gram, math.log10(p), _weight(gram, totals, types) if gram in kept else None) for gram, p in table.items()
        ]
        if length == 1:
            entries.insert(0, ((BEGIN,), NEVER, _weight((BEGIN,), totals, types) if order > 1 else None))
        rows.append(entries)
    write_arpa(path, rows)
    return [len(entries) for entries in rows]


def count(sentences: Iterable[Sequence[str]], order: int) -> list[Counter[Gram]]:
    """How often each n-gram occurs, by order from 1; a sentence begins with BEGIN and ends with END."""
    counts: list[Counter[Gram]] = [Counter() for _ in range(order)]
    for sentence in sentences:
        padded = (BEGIN, *sentence, END)
        for end in range(2, len(padded) + 1):
            for length in range(1, min(order, end) + 1):
                counts[length - 1][padded[end - length : end]] += 1
    return counts


def _weight(context: Gram, totals: list[Counter[Gram]], types: list[Counter[Gram]]) -> float:
    """log10 of what is left for units that were not seen after ``context``."""
    kinds = types[len(context)][context]
    return math.log10(kinds / (totals[len(context)][context] + kinds))
