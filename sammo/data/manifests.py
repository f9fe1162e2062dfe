"""Reading the cut manifests that prepare.sh writes: which cuts are usable, and iterating them."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import math
import string
import zlib
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterable, Iterator

import numpy as np

from sammo.data.frames import SAMPLING_RATE, num_frames
from sammo.data.problems import brief, wrong_rate
from sammo.data.sources import CHECKS, FILES, Allowed, is_name
from sammo.data.tokens import Tokenizer
from sammo.data.transcripts import select
from sammo.errors import UserError
from sammo.files import atomic_write, parse_json
from sammo.geometry import output_frames

if TYPE_CHECKING:
    from lhotse import Recording, SupervisionSegment
    from lhotse.cut import Cut

NO_TEXT = "no text"
TOO_SHORT = "fewer than 9 feature frames"
TOO_MANY_SYMBOLS = "more symbols than encoder frames"
TOO_LONG = "more seconds than the curriculum allows"
NOT_LONG_ENOUGH = "fewer seconds than --min-duration"
BEYOND_BOUND = "more seconds than --max-cut-duration"
LONGEST_LINE = 16 << 20  # characters; a cut has some thousand


@dataclass(frozen=True)
class Survey:
    """What one pass over a part's manifests found.

    ``lines`` has the duration (seconds, float64) of every line of each manifest, NaN for cuts that are left out;
    ``left_out`` maps the ids of these to the reason. ``fingerprint`` (sha256 in hex over ids and durations, in order)
    describes the rest, ``strange`` of which have ``letters`` that are no units and become "<unk>".
    """

    part: str
    lines: list[np.ndarray]
    left_out: dict[str, str]
    fingerprint: str
    strange: int = 0
    letters: str = ""

    @cached_property
    def durations(self) -> np.ndarray:
        """Seconds of the cuts that are not left out."""
        durations = np.concatenate(self.lines)
        return durations[~np.isnan(durations)]

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
        if self.strange:
            more = ", ..." if len(self.letters) > 10 else ""
            line += f"; {self.strange} with letters that are no units ({', '.join(self.letters[:10])}{more})"
        return line


def survey_manifests(
    part: str,
    paths: list[Path],
    mode: str,
    tokenizer: Tokenizer | None,
    keep_long_texts: bool = False,
    longest: float | None = None,
    allowed: Allowed = FILES,
    bounds: tuple[float, float] = (0.0, 0.0),
) -> Survey:
    """Goes through the manifests once, without building lhotse objects, and decides which cuts can be used.

    Args:
      part: its name, for messages.
      paths: its manifests.
      mode: kind of transcript.
      tokenizer: tells how many symbols a text has; None: no cut has too many.
      keep_long_texts: keep cuts with more symbols than encoder frames. Training leaves them out, as icefall's does; a
        test set keeps them: without its hardest cuts the result would flatter.
      longest: leave out cuts of more seconds, as an epoch of a curriculum does; None: none.
      allowed: where audio and features may lie.
      bounds: seconds of the shortest and the longest cut; 0: no bound.

    Raises:
      UserError: a manifest is missing or damaged, or no cut is left.
    """
    lines: list[np.ndarray] = []
    left_out: dict[str, str] = {}
    digest = hashlib.sha256()
    letters = _Letters(tokenizer)
    for path in paths:
        durations: list[float] = []
        for cut in read_records(path, "cut", allowed):
            rate = cut.get("recording", {}).get("sampling_rate", SAMPLING_RATE)
            if rate != SAMPLING_RATE:  # neither its features nor a mix with noise would work
                raise UserError(f"{path}: {wrong_rate(cut['id'], rate)}")
            reason = _unusable(cut, mode, None if keep_long_texts else tokenizer)
            reason = reason or _out_of_bounds(cut["duration"], *bounds, longest)
            durations.append(math.nan if reason else cut["duration"])
            if reason:
                left_out[cut["id"]] = reason
            else:
                letters.read(_text(cut, mode))
                digest.update(f"{cut['id']}\t{cut['duration']}\n".encode())
        lines.append(np.array(durations, dtype=np.float64))
    survey = Survey(
        part,
        lines,
        left_out,
        digest.hexdigest(),
        letters.texts,
        "".join(sorted(letters.strange)),
    )
    logging.info(survey.report())
    if not survey.num_cuts:
        raise UserError(f"part {part} is empty ({survey.report()}; manifest {paths[0]})")
    if not keep_long_texts and letters.strange and not letters.known:
        raise UserError(f"no letter of part {part} is a unit ({survey.report()}): pass the --lang of this corpus")
    return survey


class _Letters:
    """Which letters of texts are units of ``tokenizer``, and which are none."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self.tokenizer = tokenizer
        self.known: set[str] = set()
        self.strange: set[str] = set()
        self.texts = 0  # that have a strange one

    def read(self, text: str) -> None:
        if self.tokenizer is None:
            return
        letters = set(text) - set(string.whitespace)
        for letter in letters - self.known - self.strange:
            is_unit = self.tokenizer.unk_id not in self.tokenizer.encode(letter)
            (self.known if is_unit else self.strange).add(letter)
        self.texts += not self.strange.isdisjoint(letters)


def _out_of_bounds(seconds: float, least: float, most: float, longest: float | None) -> str:
    if seconds < least:
        return NOT_LONG_ENOUGH
    if 0 < most < seconds:
        return BEYOND_BOUND
    return TOO_LONG if longest is not None and seconds > longest else ""


def _unusable(cut: dict, mode: str, tokenizer: Tokenizer | None) -> str:
    text = _text(cut, mode)
    if not text.strip():
        return NO_TEXT
    frames = output_frames(num_frames(cut["duration"]))
    if frames < 1:
        return TOO_SHORT
    if tokenizer is not None and len(tokenizer.encode(text)) > frames:
        return TOO_MANY_SYMBOLS
    return ""


def _text(cut: dict, mode: str) -> str:
    supervision = cut["supervisions"][0] if cut.get("supervisions") else None
    return "" if supervision is None else select(supervision.get("text"), supervision.get("custom"), mode, cut["id"])


def read_records(path: Path, kind: str = "cut", allowed: Allowed = FILES) -> Iterator[dict]:
    """The JSON objects in ``path`` (.jsonl.gz), one a line, each checked as a ``kind`` of :mod:`sammo.data.sources`.

    Everything that reads manifests comes by here, so that nothing reaches lhotse unchecked.

    Args:
      path: the manifest.
      kind: "cut", "recording" or "supervision".
      allowed: where audio and features may lie.

    Raises:
      UserError: the file is missing or damaged, or an item is not allowed.
    """
    for number, line in enumerate(read_lines(path), start=1):
        yield parse_record(line, number, path, kind, allowed)


def read_cuts(path: Path, allowed: Allowed = FILES) -> Iterator[Cut]:
    """The cuts in ``path``; UserError as :func:`read_records`."""
    return (build_cut(record, path) for record in read_records(path, "cut", allowed))


def build_cut(record: dict, path: Path) -> Cut:
    """lhotse's cut of a checked ``record`` of ``path``; UserError where lhotse takes it for none."""
    from lhotse.cut import MonoCut, MultiCut  # seconds to load; a survey does without

    return build({"MonoCut": MonoCut, "MultiCut": MultiCut}[record["type"]], record, path)


def read_recordings(path: Path) -> Iterator[Recording]:
    """The recordings in ``path``; UserError as :func:`read_records`."""
    from lhotse import Recording

    return (build(Recording, record, path) for record in read_records(path, "recording"))


def read_supervisions(path: Path) -> Iterator[SupervisionSegment]:
    """The supervisions in ``path``; UserError as :func:`read_records`."""
    from lhotse import SupervisionSegment

    return (build(SupervisionSegment, record, path) for record in read_records(path, "supervision"))


def build(kind: type, record: dict, path: Path) -> Any:
    """lhotse's object of a checked ``record`` of ``path``; UserError where lhotse takes it for none."""
    name = record.get("id", kind.__name__)
    try:
        return kind.from_dict(record)
    except (TypeError, ValueError, KeyError, AttributeError, AssertionError) as error:
        raise UserError(f"{path}: {name} is no {kind.__name__} ({brief(error)})") from error


def manifest_digest(path: Path) -> str:
    """16 hex digits that tell manifests of other content apart, however they are packed."""
    digest = hashlib.sha256()
    for number, line in enumerate(read_lines(path), start=1):
        digest.update(json.dumps(_item(line, number, path)).encode() + b"\n")
    return digest.hexdigest()[:16]


def read_lines(path: Path) -> Iterator[bytes]:
    """The lines of a manifest, not looked at; UserError for a missing or damaged file."""
    if not path.is_file():
        raise UserError(f"no {path}; run prepare.sh or pass another --manifest-dir")
    number = 0
    try:
        with gzip.open(path, "rb") as lines:
            while line := lines.readline(LONGEST_LINE):
                if len(line) == LONGEST_LINE:
                    raise ValueError("the next line is longer than any cut")
                number += 1
                yield line
    except (OSError, EOFError, ValueError, zlib.error) as error:  # zlib.error is none of the others
        raise _damaged(path, number, error) from error


def parse_record(line: bytes, number: int, path: Path, kind: str = "cut", allowed: Allowed = FILES) -> dict:
    """The object of a line of ``path``, checked; see :func:`read_records`."""
    item = _item(line, number, path)
    problem = CHECKS[kind](item, allowed)
    if problem:
        name = item.get("id") if isinstance(item, dict) else None
        where = f"{kind} {name}" if is_name(name) else f"line {number}"
        raise UserError(f"{path}: {where}: {problem}")
    return item


def _item(line: bytes, number: int, path: Path) -> Any:
    try:
        item = parse_json(line.decode())
        if b"\\u" in line:  # half of a surrogate pair, which no output could take
            json.dumps(item, ensure_ascii=False).encode()
    except ValueError as error:
        raise _damaged(path, number, error) from error
    return item


def _damaged(path: Path, number: int, error: Exception) -> UserError:
    reason = " ".join(str(error).split())
    return UserError(f"{path} is damaged after line {number} ({reason}); remove it, run prepare.sh again")


def write_cuts(path: Path, cuts: Iterable[Any]) -> None:
    """Writes a manifest (.jsonl.gz) of cuts, recordings or supervisions, whole or not at all.

    The same cuts give the same bytes.
    """
    # lhotse's own writer lets gzip note the time and the file's name.
    with atomic_write(path, "wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
        for cut in cuts:
            packed.write((json.dumps(cut.to_dict(), ensure_ascii=False) + "\n").encode())


def duration_bins(durations: np.ndarray, num_buckets: int) -> list[float]:
    """Boundaries (seconds) of at most ``num_buckets`` buckets that hold about the same total duration each."""
    ordered = np.sort(durations)
    total = np.cumsum(ordered, dtype=np.float64)
    edges = np.searchsorted(total, total[-1] * np.arange(1, num_buckets) / num_buckets)
    return sorted({float(ordered[min(edge, len(ordered) - 1)]) for edge in edges} - {float(ordered[0])})
