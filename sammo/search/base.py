"""What all searches share: hypotheses, the tokens found so far, and walking a batch frame by frame."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Callable, Generic, Mapping, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from sammo.errors import UserError


@dataclass
class Hypothesis:
    """One recognition result.

    Attributes:
      tokens: token ids, without blanks.
      timestamps: encoder-output frame (40 ms) at which each token was emitted, from the start of the stream.
      score: natural-log probability, blanks included, plus what hotwords and the language model add; not normalized by
        length.
    """

    tokens: list[int]
    timestamps: list[int]
    score: float


class Trail(NamedTuple):
    """Tokens found so far, as a chain of pieces, one per chunk that had any, the newest first.

    Hypotheses and states share their common past, so a chunk costs its own tokens, not those of the hours
    before it. The empty trail is None.
    """

    before: Trail | None
    tokens: list[int]
    timestamps: list[int]


def extend_trail(trail: Trail | None, tokens: list[int], timestamps: list[int]) -> Trail | None:
    """The trail with more tokens."""
    return Trail(trail, tokens, timestamps) if tokens else trail


def read_trail(trail: Trail | None) -> tuple[list[int], list[int]]:
    """All tokens and time stamps, the oldest first."""
    pieces = []
    while trail is not None:
        pieces.append(trail)
        trail = trail.before
    tokens = [token for piece in reversed(pieces) for token in piece.tokens]
    return tokens, [time for piece in reversed(pieces) for time in piece.timestamps]


def trail_tensors(trail: Trail | None, name: str = "") -> dict[str, Tensor]:
    """Tokens and time stamps (S,) of a trail, to be stored."""
    tokens, timestamps = read_trail(trail)
    return {
        f"tokens{name}": torch.tensor(tokens, dtype=torch.int64),
        f"timestamps{name}": torch.tensor(timestamps, dtype=torch.int64),
    }


def trail_from(tensors: Mapping[str, Tensor], vocab_size: int, name: str = "") -> Trail | None:
    """The inverse of :func:`trail_tensors`; LookupError or ValueError where they are none."""
    tokens, timestamps = (tensors[f"{what}{name}"] for what in ("tokens", "timestamps"))
    if tokens.shape != timestamps.shape or tokens.ndim != 1 or tokens.dtype != torch.int64:
        raise ValueError(f"tokens{name} and timestamps{name} do not belong together")
    check_tokens(tokens, vocab_size)
    return extend_trail(None, tokens.tolist(), timestamps.tolist())


def check_tokens(tokens: Tensor, vocab_size: int) -> None:
    """ValueError for ids that are neither a token's nor -1, which stands for nothing."""
    if tokens.numel() and not -1 <= int(tokens.min()) <= int(tokens.max()) < vocab_size:
        raise ValueError(f"token ids must lie in [-1, {vocab_size})")


def checked_tensor(tensors: Mapping[str, Tensor], name: str, example: Tensor) -> Tensor:
    """``tensors[name]`` on the device of ``example``; ValueError where it has another shape or type than that."""
    found = tensors[name]
    if found.shape != example.shape or found.dtype != example.dtype:
        raise ValueError(f"{name} is {tuple(found.shape)} {found.dtype}, not {tuple(example.shape)} {example.dtype}")
    return found.to(example.device)


class Predictor(Protocol):
    """What a search needs of a :class:`sammo.transducer.Predictor`."""

    vocab_size: int

    def __call__(self, y: Tensor, pad: bool = True) -> Tensor: ...


class Joiner(Protocol):
    """What a search needs of a :class:`sammo.transducer.Joiner`."""

    encoder_proj: nn.Linear
    predictor_proj: nn.Linear
    output_linear: nn.Linear

    def __call__(self, enc: Tensor, pred: Tensor, project: bool = True) -> Tensor: ...


class Config(Protocol):
    """What a search needs of a :class:`sammo.transducer.ModelConfig`."""

    @property
    def blank_id(self) -> int: ...
    @property
    def context_size(self) -> int: ...


class Model(Protocol):
    """What a search needs of a :class:`sammo.transducer.Transducer`."""

    @property
    def predictor(self) -> Predictor: ...
    @property
    def joiner(self) -> Joiner: ...
    @property
    def config(self) -> Config: ...


SearchState = Any  # the state of some search, which callers carry from call to call and never look into
State = TypeVar("State")  # the dataclass of one search's states


class SortedBatch(NamedTuple):
    """A batch made ready to be searched: its streams that have frames, the longest first.

    Attributes:
      order: indices of the streams into the caller's batch, M of them.
      frames: (M, T, D) encoder output projected into the joiner's space.
      lengths: frames to search per stream, descending.
      positions: per stream the frame number of each frame to search, counted from the chunk's start.
    """

    order: list[int]
    frames: Tensor
    lengths: list[int]
    positions: list[list[int]]

    def segments(self) -> list[tuple[int, int, int]]:
        """(start, stop, count): in frames [start, stop) exactly the first ``count`` streams have frames."""
        spans, start = [], 0
        for count in range(len(self.lengths), 0, -1):
            stop = self.lengths[count - 1]
            if stop > start:
                spans.append((start, stop, count))
                start = stop
        return spans


class Searcher(Generic[State]):
    """Base of the searches; see :func:`sammo.search.make_searcher`.

    A search emits at most one symbol per frame. Frames whose encoder output is not finite emit nothing.

    Args:
      model: a transducer.
      blank_penalty: subtracted from the blank's logit.
      temperature: logits are divided by it.

    Raises:
      UserError: a temperature or blank penalty that is no finite number, or a temperature not above 0.
    """

    def __init__(self, model: Model, blank_penalty: float = 0.0, temperature: float = 1.0) -> None:
        if not 0.0 < temperature < float("inf"):
            raise UserError(f"temperature must be positive, got {temperature}")
        if not abs(blank_penalty) < float("inf"):
            raise UserError(f"blank_penalty must be a number, got {blank_penalty}")
        self.predictor = model.predictor
        self.joiner = model.joiner
        self.blank_id = model.config.blank_id
        self.context_size = model.config.context_size
        self.blank_penalty = blank_penalty
        self.temperature = temperature
        self._project: Callable[[Tensor], Tensor] = self.joiner.encoder_proj

    def start(self) -> State:
        """State of a stream before its first frame."""
        raise NotImplementedError

    def advance(self, frames: Tensor, lengths: Tensor, states: list[State]) -> list[State]:
        """Search one more chunk of every stream.

        Args:
          frames: (N, T, C) encoder output.
          lengths: (N,) valid frames of each stream, 0 to T.
          states: N states; they stay valid.

        Returns:
          The N next states; they do not depend on how streams are batched.
        """
        raise NotImplementedError

    def result(self, state: State, nbest: int = 1) -> list[Hypothesis]:
        """Up to ``nbest`` hypotheses, the best first; may be asked after any chunk."""
        raise NotImplementedError

    def restart(self, state: State, keep_context: bool = True) -> State:
        """State of a stream whose next utterance begins: no tokens, and frames counted from the start of the stream.

        Args:
          state: at the end of the utterance before.
          keep_context: the predictor continues behind the last symbols of the best hypothesis, so that greedy search
            finds what it would have found without the cut; otherwise it starts as at the start of a stream.
        """
        raise NotImplementedError

    def to_tensors(self, state: State) -> dict[str, Tensor]:
        """Everything in ``state``, by names, to be stored."""
        raise NotImplementedError

    def from_tensors(self, tensors: Mapping[str, Tensor]) -> State:
        """The inverse of :meth:`to_tensors`, for a search with the same :meth:`facts`.

        Raises:
          LookupError, ValueError: these are no tensors of such a state.
        """
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """What decides the result of this search, beside the model: JSON types."""
        return {
            "search": type(self).__name__,
            "blank_penalty": self.blank_penalty,
            "temperature": self.temperature,
        }

    def __call__(self, frames: Tensor, lengths: Tensor, nbest: int = 1) -> list[list[Hypothesis]]:
        """Search whole utterances: (N, T, C) and (N,) -> N lists of hypotheses."""
        states = self.advance(frames, lengths, [self.start() for _ in range(frames.shape[0])])
        return [self.result(state, nbest) for state in states]

    def of_projected(self) -> Searcher[State]:
        """This search over encoder output that is already projected for the joiner, (N, T, joiner dim)."""
        searcher = copy.copy(self)
        searcher._project = nn.Identity()
        return searcher

    def start_context(self) -> list[int]:
        """Context before the first symbol; -1 stands for "nothing", as in training."""
        return [-1] * (self.context_size - 1) + [self.blank_id]

    def prepare(self, frames: Tensor, lengths: Tensor, states: list[State]) -> SortedBatch:
        """Check, project and sort a batch."""
        counts = lengths.tolist()
        if not frames.shape[0] == len(counts) == len(states):
            raise ValueError(f"{frames.shape[0]} frame sequences, {len(counts)} lengths, {len(states)} states")
        if counts and not 0 <= min(counts) <= max(counts) <= frames.shape[1]:
            raise ValueError(f"lengths must lie in [0, {frames.shape[1]}], got {counts}")
        order = sorted((n for n in range(len(counts)) if counts[n]), key=lambda n: -counts[n])
        if not order:
            return SortedBatch([], frames, [], [])
        projected = self._project(frames[order])
        positions = [list(range(counts[n])) for n in order]
        finite = projected.isfinite().all(dim=2)
        times = torch.arange(frames.shape[1], device=frames.device)
        padding = times >= torch.tensor([[counts[n]] for n in order], device=frames.device)
        if not (finite | padding).all():
            return self._without_bad_frames(order, projected, finite, positions)
        return SortedBatch(order, projected, [counts[n] for n in order], positions)

    @staticmethod
    def _without_bad_frames(
        order: list[int], projected: Tensor, finite: Tensor, positions: list[list[int]]
    ) -> SortedBatch:
        kept = [[t for t in row if ok[t]] for row, ok in zip(positions, finite.tolist())]
        compact = projected.clone()
        for row, source, keep in zip(compact, projected, kept):
            row[: len(keep)] = source[keep]
        rank = sorted((i for i in range(len(kept)) if kept[i]), key=lambda i: -len(kept[i]))
        return SortedBatch(
            [order[i] for i in rank], compact[rank], [len(kept[i]) for i in rank], [kept[i] for i in rank]
        )

    def predict(self, contexts: Tensor) -> Tensor:
        """Contexts (M, context_size) -> projected predictor output (M, joiner dim)."""
        return self.joiner.predictor_proj(self.predictor(contexts, pad=False).squeeze(1))

    def logits(self, frames: Tensor, predicted: Tensor) -> Tensor:
        """Projected frames and predictor output, (M, joiner dim) each -> scaled logits (M, V), at least float32."""
        logits = self.joiner(frames, predicted, project=False)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.blank_penalty != 0.0:
            logits[:, self.blank_id] -= self.blank_penalty
        return logits if self.temperature == 1.0 else logits / self.temperature
