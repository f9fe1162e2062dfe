"""Reading the cut manifests that prepare.sh writes: which cuts are usable, and iterating them."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Iterable, Iterator

import numpy as np

from sammo.data.frames import num_frames
from sammo.data.tokens import Tokenizer
from sammo.data.transcripts import select
from sammo.errors import UserError
from sammo.files import atomic_write
from sammo.geometry import output_frames

if TYPE_CHECKING:
    from lhotse.cut import Cut

NO_TEXT = "no text"
TOO_SHORT = "fewer than 9 feature frames"
TOO_MANY_SYMBOLS = "more symbols than encoder frames"
TOO_LONG = "more seconds than the curriculum allows"


@dataclass(frozen=True)
class Scan:
    """What one pass over a part's manifests found.

    ``left_out`` maps the ids of unusable cuts to the reason; ``durations`` (seconds, float32) and ``fingerprint``
    (sha256 in hex over ids and durations, in order) describe the rest.
    """

    part: str
    durations: np.ndarray
    left_out: dict[str, str]
    fingerprint: str

    @property
    def num_cuts(self) -> int:
        return len(self.durations)

    @cached_property
    def seconds(self) -> float:
        return float(self.durations.sum())

    @property
    def hours(self) -> float:
        return self.seconds / 3600

    def report(self) -> str:
        """One line: how many cuts, how long, and what was left out why."""
        line = f"{self.part}: {self.num_cuts} cuts, {self.hours:.2f} h"
        if self.left_out:
            reasons = Counter(self.left_out.values())
            line += "; left out " + ", ".join(f"{count} with {reason}" for reason, count in reasons.items())
            line += " (first: " + ", ".join(list(self.left_out)[:3]) + ")"
        return line


def scan_manifests(
    part: str,
    paths: list[Path],
    mode: str,
    tokenizer: Tokenizer | None,
    keep_long_texts: bool = False,
    longest: float | None = None,
) -> Scan:
    """Goes through the manifests once, without building lhotse objects, and decides which cuts can be used.

    keep_long_texts: keep cuts with more symbols than encoder frames. A loss needs them gone; a test set is scored
    whole, so that leaving out its hardest cuts flatters nobody. tokenizer None also keeps them. longest: leave out cuts
    of more seconds.

    Raises UserError for a missing or damaged manifest and where no cut is left.
    """
    durations: list[float] = []
    left_out: dict[str, str] = {}
    digest = hashlib.sha256()
    for path in paths:
        for cut in read_json_lines(path):
            reason = _unusable(cut, mode, None if keep_long_texts else tokenizer)
            if not reason and longest is not None and cut["duration"] > longest:
                reason = TOO_LONG
            if reason:
                left_out[cut["id"]] = reason
            else:
                durations.append(cut["duration"])
                digest.update(f"{cut['id']}\t{cut['duration']}\n".encode())
    scan = Scan(part, np.array(durations, dtype=np.float32), left_out, digest.hexdigest())
    logging.info(scan.report())
    if not durations:
        raise UserError(f"part {part} is empty ({scan.report()}; manifest {paths[0]})")
    return scan


def _unusable(cut: dict, mode: str, tokenizer: Tokenizer | None) -> str:
    supervision = cut["supervisions"][0] if cut.get("supervisions") else None
    text = "" if supervision is None else select(supervision.get("text"), supervision.get("custom"), mode, cut["id"])
    if not text.strip():
        return NO_TEXT
    frames = output_frames(num_frames(cut["duration"]))
    if frames < 1:
        return TOO_SHORT
    if tokenizer is not None and len(tokenizer.encode(text)) > frames:
        return TOO_MANY_SYMBOLS
    return ""


def read_json_lines(path: Path) -> Iterator[dict]:
    """The JSON objects in ``path`` (.jsonl.gz), one a line; UserError for a missing or damaged file."""
    if not path.is_file():
        raise UserError(f"no {path}; run prepare.sh or pass another --manifest-dir")
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                yield json.loads(line)
    except (OSError, EOFError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is damaged after line {number} ({error}); remove it, run prepare.sh again") from error


def write_cuts(path: Path, cuts: Iterable[Cut]) -> None:
    """Writes a cut manifest (.jsonl.gz), whole or not at all; the same cuts give the same bytes."""
    # lhotse's own writer lets gzip note the time and the file's name.
    with atomic_write(path, "wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
        for cut in cuts:
            packed.write((json.dumps(cut.to_dict(), ensure_ascii=False) + "\n").encode())


class ManifestCuts:
    """Iterable over the usable cuts of some manifests of equal kind, read lazily, one of each in turn.

    Taking turns mixes the speed-perturbed copies of a corpus, which lie in files of their own.
    """

    def __init__(self, paths: list[Path], left_out: Iterable[str] = ()):
        self.paths = paths
        self.left_out = frozenset(left_out)

    def __iter__(self) -> Iterator[Cut]:
        from lhotse import CutSet  # seconds to load; scanning does without

        streams = [iter(CutSet.from_file(path)) for path in self.paths]
        while streams:
            for stream in list(streams):
                cut = next(stream, None)
                if cut is None:
                    streams.remove(stream)
                elif cut.id not in self.left_out:
                    yield cut


def duration_bins(durations: np.ndarray, num_buckets: int) -> list[float]:
    """Boundaries (seconds) of at most ``num_buckets`` buckets that hold about the same total duration each."""
    ordered = np.sort(durations)
    total = np.cumsum(ordered, dtype=np.float64)
    edges = np.searchsorted(total, total[-1] * np.arange(1, num_buckets) / num_buckets)
    return sorted({float(ordered[min(edge, len(ordered) - 1)]) for edge in edges} - {float(ordered[0])})
