"""What hours do to a model that was trained on seconds: utterances joined to talks, decoded with one state throughout.

Every utterance begins at the start of a chunk, as it does when it is decoded alone: what differs between the two is the
state that the encoder and the search bring along, and nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Iterable, Iterator, NamedTuple, Sequence

import torch
from torch import Tensor

from sammo import geometry
from sammo.data.tokens import Tokenizer
from sammo.decoding import Chunking
from sammo.encoder import Encoder, EncoderState
from sammo.encoder.state import map_state
from sammo.memory.recurrence import Place, recurrent_leaves, recurrent_mixers
from sammo.progress import progress
from sammo.scoring import Counts, count_errors
from sammo.search import Searcher
from sammo.transducer import Transducer

EDGES = (0, 1, 2, 5, 10, 20, 30, 60, 120)  # minutes: what positions in a talk are pooled


class Utterance(NamedTuple):
    """What talks are joined of."""

    features: Tensor  # (T, 80) at 100 Hz
    text: str


@dataclass
class Talk:
    """Utterances one behind the other, pauses of silence between them."""

    utterances: list[int] = field(default_factory=list)  # indices
    chunks: list[int] = field(default_factory=list)  # the first chunk of each
    length: int = 0  # chunks


class Norms(NamedTuple):
    """The recurrent state of one stack: its root mean square over layers, heads and talks, at some minutes."""

    stack: int  # from 1
    values: list[float]


class Joined(NamedTuple):
    """What came of talks; counts are in the order of the talks' utterances, ``alone`` with a fresh state for each."""

    minutes: list[float]  # at which each utterance begins in its talk
    joined: list[Counts]
    alone: list[Counts]
    norms: list[Norms]
    norm_minutes: list[float]


def chunks_of(frames: int, chunk_size: int, pause: float) -> int:
    """Chunks that ``frames`` feature frames and at least ``pause`` seconds of silence behind them take."""
    embed = geometry.embed_frames(frames + geometry.TAIL_PADDING) + math.ceil(pause * geometry.RATE)
    return -(-max(embed, 1) // chunk_size)


def join(lengths: Sequence[int], seconds: float, count: int, chunk_size: int, pause: float, seed: int) -> list[Talk]:
    """``count`` talks of at least ``seconds``: all utterances in an order drawn for each talk, again and again.

    lengths: feature frames of the utterances.
    """
    generator = torch.Generator().manual_seed(seed)
    wanted = math.ceil(seconds * geometry.RATE / chunk_size)
    talks = []
    for _ in range(count):
        talk = Talk()
        while talk.length < wanted:
            for index in torch.randperm(len(lengths), generator=generator).tolist():
                talk.utterances.append(index)
                talk.chunks.append(talk.length)
                talk.length += chunks_of(lengths[index], chunk_size, pause)
                if talk.length >= wanted:
                    break
        talks.append(talk)
    return talks


@torch.inference_mode()
def decode_talks(
    model: Transducer,
    searcher: Searcher,
    utterances: Sequence[Utterance],
    talks: Sequence[Talk],
    tokenizer: Tokenizer,
    chunking: Chunking,
    metric: str,
    reset_every: float = 0.0,
) -> Joined:
    """Decodes all talks in lockstep, and every utterance that is in one alone.

    Args:
      utterances: what the talks' indices mean.
      metric: "CER" or "WER".
      reset_every: seconds after which encoder and search begin anew, at the next utterance; 0: never.
    """
    chunk = chunking.chunk_size
    encoder = model.eval().encoder
    device = next(model.parameters()).device
    used = sorted({index for talk in talks for index in talk.utterances})
    single = [Talk([index], [0], chunks_of(utterances[index].features.shape[0], chunk, 0)) for index in used]
    alone: dict[int, Counts] = {}
    for start in range(0, len(single), 16):
        batch = single[start : start + 16]
        for talk, texts in zip(batch, _decode(encoder, searcher, utterances, batch, tokenizer, chunking, device, 0)):
            index = talk.utterances[0]
            alone[index] = count_errors(utterances[index].text, texts[0], metric)
    watch = _NormWatch(encoder, chunk)
    texts = _decode(encoder, searcher, utterances, talks, tokenizer, chunking, device, reset_every, watch)
    minutes, joined, paired = [], [], []
    for talk, found in zip(talks, texts):
        for index, first, text in zip(talk.utterances, talk.chunks, found):
            minutes.append(first * chunk / geometry.RATE / 60)
            joined.append(count_errors(utterances[index].text, text, metric))
            paired.append(alone[index])
    return Joined(minutes, joined, paired, watch.norms(), watch.minutes)


class _NormWatch:
    """Takes the root mean square of the recurrent states now and then."""

    def __init__(self, encoder: Encoder, chunk_size: int) -> None:
        self._recurrent = recurrent_mixers(encoder)
        self._chunk_seconds = chunk_size / geometry.RATE
        self._next = 10.0  # seconds
        self.minutes: list[float] = []
        self._found: dict[int, list[float]] = {}

    def __call__(self, chunk: int, state: EncoderState) -> None:
        seconds = (chunk + 1) * self._chunk_seconds
        if not self._recurrent or seconds < self._next:
            return
        self._next = seconds * 1.25
        self.minutes.append(seconds / 60)
        squares: dict[int, list[Tensor]] = {}
        leaves: dict[Place, Tensor] = recurrent_leaves(state, self._recurrent)
        for (stack, _), leaf in leaves.items():
            squares.setdefault(stack, []).append(leaf.float().square().mean())
        for stack, values in squares.items():
            self._found.setdefault(stack, []).append(float(torch.stack(values).mean().sqrt()))

    def norms(self) -> list[Norms]:
        return [Norms(stack + 1, values) for stack, values in sorted(self._found.items())]


def _decode(
    encoder: Encoder,
    searcher: Searcher,
    utterances: Sequence[Utterance],
    talks: Sequence[Talk],
    tokenizer: Tokenizer,
    chunking: Chunking,
    device: torch.device,
    reset_every: float,
    watch: _NormWatch | None = None,
) -> list[list[str]]:
    """The text of every utterance of every talk: what was emitted between its start and that of the next one."""
    chunk, left = chunking
    blank = encoder.init_state(len(talks), left, device)
    state, searches = blank, [searcher.start() for _ in talks]
    begun = [0] * len(talks)  # the chunk at which each talk's search began
    found: list[list[tuple[float, int]]] = [[] for _ in talks]  # (output frame of the talk, token)
    wait = math.inf if reset_every <= 0 else reset_every * geometry.RATE / chunk
    starts = [set(talk.chunks) for talk in talks]
    step = geometry.STRIDE * chunk
    last = [talk.chunks[-1] * step + utterances[talk.utterances[-1]].features.shape[0] for talk in talks]
    ends = torch.tensor(last) + geometry.TAIL_PADDING

    def take(row: int) -> None:
        best = searcher.result(searches[row])[0]
        offset = begun[row] * chunk // geometry.OUTPUT_DOWNSAMPLING
        found[row] += [(offset + frame, token) for frame, token in zip(best.timestamps, best.tokens)]

    longest = max(talk.length for talk in talks)
    windows = _windows(utterances, talks, chunk, longest)
    if watch is not None:
        windows = progress(windows, total=longest, desc="talks")
    for number, window in enumerate(windows):
        over = [row for row, at in enumerate(begun) if number - at >= wait and number in starts[row]]
        if over:
            for row in over:
                take(row)
                searches[row], begun[row] = searcher.start(), number
            state = _reset(state, blank, over)
        lengths = (ends - number * step).clamp(0, window.shape[1])
        output = encoder(window.to(device), lengths, state, chunk_size=chunk)
        state = output.state
        searches = searcher.advance(output.frames, output.lengths, searches)
        if watch is not None:
            watch(number, state)
    for row in range(len(talks)):
        take(row)
    return [_texts(talk, row, tokenizer, chunk) for talk, row in zip(talks, found)]


def _windows(utterances: Sequence[Utterance], talks: Sequence[Talk], chunk: int, longest: int) -> Iterator[Tensor]:
    """(N, window, 80): the feature frames of each chunk of all talks; silence behind a talk's end."""
    size, step = geometry.window(chunk), geometry.STRIDE * chunk
    cursors = [0] * len(talks)
    for number in range(longest):
        rows = torch.full((len(talks), size, utterances[0].features.shape[1]), geometry.PADDING_VALUE)
        for row, talk in enumerate(talks):
            while cursors[row] + 1 < len(talk.chunks) and talk.chunks[cursors[row] + 1] <= number:
                cursors[row] += 1
            for place in (cursors[row], cursors[row] + 1):  # a window reaches into the next utterance
                if place < len(talk.chunks):
                    _copy(rows[row], utterances[talk.utterances[place]].features, (number - talk.chunks[place]) * step)
        yield rows


def _copy(window: Tensor, features: Tensor, start: int) -> None:
    """window (W, 80) gets the frames from ``start`` on, which may lie before the first or behind the last."""
    piece = features[max(start, 0) : max(start + window.shape[0], 0)]
    window[max(-start, 0) : max(-start, 0) + piece.shape[0]] = piece


def _reset(state: EncoderState, blank: EncoderState, rows: Sequence[int]) -> EncoderState:
    """``state`` with some streams as they begin."""

    def reset(leaf: Tensor, zero: Tensor) -> Tensor:
        return leaf.index_copy(0, torch.tensor(rows, device=leaf.device), zero[list(rows)])

    return map_state(reset, state, blank)


def _texts(talk: Talk, found: Sequence[tuple[float, int]], tokenizer: Tokenizer, chunk: int) -> list[str]:
    tokens: list[list[int]] = [[] for _ in talk.utterances]
    place = 0
    for frame, token in found:
        while place + 1 < len(talk.chunks) and frame * geometry.OUTPUT_DOWNSAMPLING >= talk.chunks[place + 1] * chunk:
            place += 1
        tokens[place].append(token)
    return [tokenizer.decode(row) for row in tokens]


def bins(joined: Joined) -> Iterable[tuple[str, list[Counts], list[Counts]]]:
    """("2 to 5 min", counts joined, counts alone) of the positions that there are."""
    for low, high in zip(EDGES, EDGES[1:]):
        rows = [row for row, minute in enumerate(joined.minutes) if low <= minute < high]
        if rows:
            yield f"{low} to {high} min", [joined.joined[row] for row in rows], [joined.alone[row] for row in rows]
