"""Where in a chunk errors happen, and how long after a unit was said its token is out: from results and an alignment.

A causal encoder sees least at the first frames of a chunk if nothing carries the past, and at the last ones because
nothing shows the future. If chunks without left context make errors at their boundaries, and a recurrent state mends
that (Teo and Minami, UEC 2024), it shows here.
"""

from __future__ import annotations

import ast
import logging
import math
import re
from pathlib import Path
from typing import NamedTuple, Sequence

import kaldialign
import numpy as np

from sammo import geometry
from sammo.errors import UserError
from sammo.evidence.alignment import Said
from sammo.scoring.cer import EPSILON, Counts, bootstrap_interval, error_rate, total
from sammo.scoring.results import PartResult

BINS = 8  # places in a chunk
SAID_WITHIN = 1.0  # seconds that the time of a token may be off its unit's; further off, alignments are about others
_LINE = re.compile(r"^(.+?):\t(ref|hyp|timestamp_hyp)=(\[.*\])$")


class Timing(NamedTuple):
    """What came of one system at one chunk size.

    places: for each of BINS places in the chunk, one Counts an utterance; latencies: seconds from the end of each unit
    that was recognized to the moment when its token is out.
    """

    places: list[list[Counts]]
    latencies: list[float]
    utterances: int

    def rates(self) -> list[tuple[float, float, float]]:
        """Error rate in percent and its 95 % bootstrap interval at every place."""
        return [(error_rate(total(counts)), *bootstrap_interval(counts)) for counts in self.places]

    def quantiles(self, shares: Sequence[float] = (0.5, 0.9, 0.99)) -> list[float]:
        """Of the latencies, in seconds; NaN without any."""
        return np.quantile(self.latencies, shares).tolist() if self.latencies else [math.nan] * len(shares)


def place_in_chunk(seconds: float, chunk_size: int) -> int:
    """The place, 0 to BINS - 1, at which what was said after ``seconds`` falls into its chunk of embed frames."""
    frame = max(seconds * geometry.FEATURE_RATE - geometry.MARGIN / 2, 0.0) / geometry.STRIDE
    return min(int(frame % chunk_size * BINS / chunk_size), BINS - 1)


def emission(timestamp: float, chunk_size: int) -> float:
    """Seconds of audio that must have come for the chunk that holds the token of ``timestamp`` to be computed."""
    chunk = int(timestamp * geometry.RATE + 1e-6) // chunk_size
    frames = chunk * chunk_size * geometry.STRIDE + geometry.window(chunk_size)
    return frames / geometry.FEATURE_RATE


def measure(results: Sequence[PartResult], alignments: dict[str, list[Said]]) -> Timing:
    """Over the parts ``results`` of one system at one chunk size, above 0.

    Utterances whose reference is not what was aligned are left out.

    Raises:
      UserError: a file beside a result cannot be read, or nothing of the results was aligned.
    """
    places: list[list[Counts]] = [[] for _ in range(BINS)]
    latencies: list[float] = []
    utterances, others = 0, 0
    for result in results:
        chunk = result.setting.chunk_size
        texts, times = read_texts(result), _read_times(result)
        for cut_id in result.cut_ids:
            said = alignments.get(cut_id)
            reference, hypothesis = texts.get(cut_id, ([], []))
            if said is None or [unit for unit, *_ in said] != reference:
                others += 1
                continue
            utterances += 1
            emitted = times.get(cut_id, [])
            counts, found = _utterance(reference, hypothesis, said, emitted, chunk)
            latencies += found
            for place, count in zip(places, counts):
                place.append(count)
    if not utterances:
        raise UserError(f"no utterance of {results[0].path} is in the alignment; align the parts that were decoded")
    if others:
        logging.info(f"{results[0].path.name}: {others} utterances without an alignment of their text are left out")
    return Timing(places, latencies, utterances)


def _utterance(
    reference: list[str], hypothesis: list[str], said: Sequence[Said], emitted: Sequence[float], chunk: int
) -> tuple[list[Counts], list[float]]:
    counted = np.zeros((BINS, 4), dtype=int)  # as Counts
    latencies = []
    ref, hyp, place = 0, 0, place_in_chunk(_middle(said[0]), chunk) if said else 0
    one_each = len(emitted) == len(hypothesis)  # tokens are units, so that their times are the units' times
    for left, right in kaldialign.align(reference, hypothesis, EPSILON):
        if left != EPSILON:
            place = place_in_chunk(_middle(said[ref]), chunk)
            counted[place, 0] += 1
            if left == right and one_each and abs(emitted[hyp] - said[ref].end) <= SAID_WITHIN:
                latencies.append(emission(emitted[hyp], chunk) - said[ref].end)
        kind = None if left == right else 1 if left == EPSILON else 2 if right == EPSILON else 3
        if kind is not None:
            counted[place, kind] += 1  # an insertion counts where the unit before it was said
        ref, hyp = ref + (left != EPSILON), hyp + (right != EPSILON)
    return [Counts(*map(int, row)) for row in counted], latencies


def _middle(said: Said) -> float:
    return (said.begin + said.end) / 2


def read_texts(result: PartResult) -> dict[str, tuple[list[str], list[str]]]:
    """Utterance -> units of reference and hypothesis, from the recogs- file beside a result; UserError where it cannot be
    read."""
    lines = _read(_beside(result, "recogs"))
    return {cut_id: (found.get("ref", []), found.get("hyp", [])) for cut_id, found in lines.items()}


def _read_times(result: PartResult) -> dict[str, list[float]]:
    """Utterance -> seconds at which its tokens were emitted."""
    return {cut_id: found.get("timestamp_hyp", []) for cut_id, found in _read(_beside(result, "timestamps")).items()}


def _beside(result: PartResult, kind: str) -> Path:
    return result.path.with_name(f"{kind}-{result.path.stem.removeprefix('cer-')}.txt")


def _read(path: Path) -> dict[str, dict[str, list]]:
    found: dict[str, dict[str, list]] = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            match = _LINE.match(line)
            if match is None:
                raise ValueError(f"no line of results: {line[:60]!r}")
            found.setdefault(match[1], {})[match[2]] = ast.literal_eval(match[3])  # literals alone, nothing runs
    except (OSError, ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); decode again with --force") from error
    return found
