"""When each character or word of a transcript was said: forced alignment by a model's CTC layer, and its file.

The file is NIST's CTM, a line a unit: utterance, channel, begin and duration in seconds, unit.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Iterable, Iterator, NamedTuple, Sequence

import torch
from torch import Tensor
from torchaudio.functional import forced_align

from sammo import geometry
from sammo.data.dataset import Batch
from sammo.data.tokens import Tokenizer
from sammo.decoding import with_tails
from sammo.errors import UserError
from sammo.files import atomic_write
from sammo.scoring.cer import METRICS
from sammo.transducer import Transducer


class Said(NamedTuple):
    """A character or word and when it was said, in seconds from the start of its utterance."""

    unit: str
    begin: float
    end: float


def seconds_of_frame(frame: int) -> float:
    """The middle of what the front-end makes output frame ``frame`` (25 Hz) of, without the ConvNeXt block's context."""
    feature = frame * geometry.OUTPUT_DOWNSAMPLING * geometry.STRIDE + geometry.MARGIN / 2
    return feature / geometry.FEATURE_RATE


@torch.inference_mode()
def align_batches(
    model: Transducer, batches: Iterable[Batch], tokenizer: Tokenizer, metric: str
) -> Iterator[tuple[str, list[Said]]]:
    """(cut id, its units in order) of every utterance of ``batches`` that can be aligned; the others are logged.

    The encoder sees whole utterances. CTC puts most units on one frame, so that begin and end are about the time of
    the unit, not its borders.

    Args:
      metric: "CER" or "WER", whose units are aligned.

    Raises:
      UserError: the model has no CTC layer.
    """
    if not model.config.use_ctc:
        raise UserError("the model has no CTC layer to align with; train one with --ctc-loss-scale above 0")
    device = next(model.parameters()).device
    model.eval()
    for batch in batches:
        features, lengths = with_tails(batch["features"].to(device), batch["lengths"].to(device))
        encoded = model.encoder(features, lengths, chunk_size=-1)
        log_probs = model.ctc_output(encoded.frames).log_softmax(dim=-1, dtype=torch.float32)
        for cut_id, text, row, length in zip(batch["cut_ids"], batch["texts"], log_probs, encoded.lengths.tolist()):
            tokens = tokenizer.encode(text)
            spans = token_frames(row[:length], tokens, model.config.blank_id)
            if spans is None:
                logging.warning(f"{cut_id}: {len(tokens)} units do not fit into {length} frames; left out")
                continue
            yield cut_id, units_said(tokens, spans, tokenizer, metric)


def token_frames(log_probs: Tensor, tokens: Sequence[int], blank_id: int) -> list[tuple[int, int]] | None:
    """log_probs (T, V) -> first and last frame of each token on the most probable path; None where none exists."""
    repeats = sum(a == b for a, b in zip(tokens, tokens[1:]))
    if not tokens or len(tokens) + repeats > log_probs.shape[0] or blank_id in tokens:
        return None if tokens else []
    path, _ = forced_align(log_probs[None].cpu(), torch.tensor([tokens], dtype=torch.int32), blank=blank_id)
    spans: list[tuple[int, int]] = []
    before = blank_id
    for frame, token in enumerate(path[0].tolist()):
        if token != blank_id:
            spans[-1:] = [(spans[-1][0], frame)] if token == before else [*spans[-1:], (frame, frame)]
        before = token
    return spans


def units_said(
    tokens: Sequence[int], spans: Sequence[tuple[int, int]], tokenizer: Tokenizer, metric: str
) -> list[Said]:
    """The characters or words that ``tokens`` spell: each lasts from the first to the last of its tokens."""
    said: list[Said] = []
    for count, (first, last) in enumerate(spans, start=1):
        begin, end = seconds_of_frame(first), seconds_of_frame(last)
        units = METRICS[metric](tokenizer.decode(tokens[:count]))
        if said and len(units) >= len(said) and units[len(said) - 1] != said[-1].unit:
            said[-1] = Said(units[len(said) - 1], said[-1].begin, end)  # the word goes on
        said += [Said(unit, begin, end) for unit in units[len(said) :]]
    return said


def write_ctm(path: Path, aligned: Iterable[tuple[str, Sequence[Said]]]) -> int:
    """Writes the file whole or not at all, sorted by utterance; returns the number of utterances."""
    found = sorted(aligned)
    with atomic_write(path) as file:
        for cut_id, units in found:
            for unit, begin, end in units:
                print(f"{cut_id} 1 {begin:.3f} {end - begin:.3f} {unit}", file=file)
    return len(found)


def read_ctm(path: Path) -> dict[str, list[Said]]:
    """Utterance -> its units in order; UserError naming the line that is no CTM."""
    found: dict[str, list[Said]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); sammo align writes it") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith(";;"):
            continue
        try:
            cut_id, _, begin, duration, unit = line.split()[:5]
            start, length = float(begin), float(duration)
            if not (math.isfinite(start) and 0 <= length < math.inf):
                raise ValueError
        except ValueError:
            reason = "expected utterance, channel, begin, duration and unit"
            raise UserError(f"{path}, line {number}: {reason}, got {line[:80]!r}") from None
        found.setdefault(cut_id, []).append(Said(unit, start, start + length))
    if not found:
        raise UserError(f"{path} holds no aligned utterance")
    return found
