"""Chunk-by-chunk decoding of batches of whole utterances, with the state between chunks changed."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Callable, Iterable, NamedTuple, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sammo import geometry
from sammo.data.dataset import Batch
from sammo.data.tokens import Tokenizer
from sammo.decoding import with_tails
from sammo.encoder import Encoder, EncoderState
from sammo.encoder.mixers import Decay
from sammo.memory.recurrence import (
    ChunkWindow,
    Place,
    recurrent_leaves,
    recurrent_mixers,
    silenced,
    watch_decays,
)
from sammo.scoring import Counts, count_errors
from sammo.search import Searcher
from sammo.transducer import Transducer

FEATURE_RATE = 100
# Values of past chunks' contributions that are held at a time: a larger batch is split.
MAX_HELD_VALUES = 2**28


class Condition(NamedTuple):
    """One way to decode. Lengths in embed frames of 20 ms."""

    chunk_size: int
    left_context_frames: int  # of attention; 0 where the encoder has none
    window: int | None = None  # chunks of which the recurrent state holds something; None: all
    silenced: bool = False  # the mixers' output is zero

    @property
    def age(self) -> float:
        """Seconds of the past that the recurrent state holds; infinite for all."""
        return float("inf") if self.window is None else self.window * self.chunk_size / geometry.RATE


@dataclass
class Outcome:
    """What one condition led to."""

    counts: list[Counts] = field(default_factory=list)  # one an utterance
    chunks: int = 0  # of all utterances
    touched: int = 0  # chunks whose state was another than without the window


@dataclass
class DecaySums:
    """Log decays over all frames that were decoded as the model is."""

    sums: dict[Place, Tensor] = field(default_factory=dict)  # (H,) float64
    frames: dict[Place, int] = field(default_factory=dict)

    def add(self, decays: dict[Place, Decay], valid: Tensor, factors: Sequence[int]) -> None:
        """valid: (N,) embed frames of the chunk that are in the utterance; factors: of the stacks."""
        for place, (log, _) in decays.items():
            factor = factors[place[0]]
            ends = (valid + factor - 1) // factor
            inside = torch.arange(log.shape[1], device=log.device) < ends[:, None]  # (N, T)
            found = (log.double() * inside[:, :, None]).sum(dim=(0, 1)).cpu()
            self.sums[place] = self.sums[place] + found if place in self.sums else found
            self.frames[place] = self.frames.get(place, 0) + int(inside.sum())

    def time_constants(self) -> dict[Place, Tensor]:
        """(H,) frames each: -1 / mean log decay a frame."""
        return {place: -1.0 / (found / max(self.frames[place], 1)) for place, found in self.sums.items()}


Observer = Callable[[dict[Place, Decay], Tensor], None]


def encode_chunks(
    encoder: Encoder,
    features: Tensor,
    lengths: Tensor,
    condition: Condition,
    observe: Observer | None = None,
) -> tuple[Tensor, Tensor]:
    """Whole utterances, all in lockstep, chunk by chunk with a carried state.

    Args:
      features: (N, T, 80) with the tails of :func:`sammo.decoding.with_tails`.
      lengths: (N,) valid feature frames, tails counted.
      observe: called after each chunk with the decays of the mixers and the valid embed frames (N,).

    Returns:
      frames (N, T'', C) at 25 Hz and their lengths (N,).
    """
    chunk = condition.chunk_size
    recurrent = recurrent_mixers(encoder)
    watched = recurrent if observe is not None or condition.window is not None else {}
    window = None if condition.window is None else ChunkWindow(recurrent, condition.window)
    state: EncoderState = encoder.init_state(features.shape[0], condition.left_context_frames, features.device)
    outputs, counts = [], torch.zeros_like(lengths)
    size = geometry.window(chunk)
    frames = int(geometry.embed_frames(lengths).max())
    with watch_decays(watched) as decays, silenced(encoder) if condition.silenced else nullcontext():
        for start in range(0, max(frames, 1), chunk):
            piece = features[:, 2 * start : 2 * start + size]
            piece = F.pad(piece, (0, 0, 0, size - piece.shape[1]), value=geometry.PADDING_VALUE)
            valid = (lengths - 2 * start).clamp(0, size)
            output = encoder(piece, valid, state, chunk_size=chunk)
            outputs.append(output.frames)
            counts = counts + output.lengths
            if observe is not None:
                observe(decays, geometry.embed_frames(valid).clamp(max=chunk))
            state = output.state if window is None else window.limit(state, output.state, decays)
    return torch.cat(outputs, dim=1), counts


@torch.inference_mode()
def decode_conditions(
    model: Transducer,
    searcher: Searcher,
    batches: Iterable[Batch],
    tokenizer: Tokenizer,
    conditions: Sequence[Condition],
    sums: DecaySums,
    metric: str = "CER",
) -> tuple[dict[Condition, Outcome], list[float]]:
    """Decodes ``batches`` of the data module under each condition, loading every batch once.

    Returns the outcomes, whose utterances are in the same order, and the utterances' seconds; adds the decays of those
    conditions that change nothing to ``sums``. ``metric`` is what is counted, "CER" or "WER".
    """
    encoder = model.eval().encoder
    device = next(model.parameters()).device
    factors = [stack.factor for stack in encoder.stacks]

    def observe(decays: dict[Place, Decay], valid: Tensor) -> None:
        sums.add(decays, valid, factors)

    outcomes = {condition: Outcome() for condition in conditions}
    durations: list[float] = []
    for batch in batches:
        durations += [length / FEATURE_RATE for length in batch["lengths"].tolist()]
        features, lengths = with_tails(batch["features"].to(device), batch["lengths"].to(device))
        for condition, outcome in outcomes.items():
            unchanged = condition.window is None and not condition.silenced
            rows = max_rows(encoder, condition)
            texts = iter(batch["texts"])
            for part, ends in zip(features.split(rows), lengths.split(rows)):
                frames, counts = encode_chunks(
                    encoder, part[:, : int(ends.max())], ends, condition, observe if unchanged else None
                )
                for best, *_ in searcher(frames, counts):
                    outcome.counts.append(count_errors(next(texts), tokenizer.decode(best.tokens), metric))
            for chunks in (-(-geometry.embed_frames(lengths) // condition.chunk_size)).tolist():
                outcome.chunks += chunks
                if condition.window is not None:
                    outcome.touched += max(0, chunks - 1 - condition.window)
    return outcomes, durations


def max_rows(encoder: Encoder, condition: Condition) -> int:
    """Utterances that are decoded together: what their past chunks wrote must fit into memory."""
    leaves = recurrent_leaves(encoder.init_state(1, condition.left_context_frames), recurrent_mixers(encoder))
    held = (1 + (condition.window or 0)) * sum(leaf.numel() for leaf in leaves.values())
    return max(1, MAX_HELD_VALUES // max(held, 1))
