"""Many streams, one encoder step a chunk: what a server runs, and what streaming_decode.py measures.

Audio goes in piece by piece, per stream and at any time; :meth:`StreamingRecognizer.step` takes every stream whose
next chunk is complete, runs them as one batch and updates their results. Each stream's result is the one it would
get alone.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, Callable, Hashable, Iterable, Iterator, NamedTuple

import torch
from torch import Tensor

from sammo import geometry
from sammo.data.features import NUM_MEL_BINS, SAMPLING_RATE
from sammo.encoder.state import pack_state, unpack_state
from sammo.errors import UserError
from sammo.options import MOST_STREAMS, check_chunking, check_range
from sammo.search import Hypothesis, Searcher, SearchState
from sammo.streaming.audio import check_samples
from sammo.streaming.features import OnlineFbank, samples_for_frames
from sammo.streaming.runtimes import EncoderRuntime, TorchRuntime
from sammo.streaming.states import StateStore
from sammo.transducer import Transducer


@dataclasses.dataclass(eq=False)
class Stream:
    """One utterance on its way. Read it; change it through its methods and the recognizer's.

    Attributes:
      key: whatever the caller knows it by.
      result: the best tokens so far and their time stamps in encoder outputs (40 ms).
      available: for every token of ``result``, the second of audio that was needed before it came out for good.
      done: nothing more will come.
      error: one line where the stream was given up; ``result`` then holds what came before.
    """

    key: Hashable
    search_state: SearchState
    fbank: OnlineFbank
    result: Hypothesis
    frames: Tensor  # features that no chunk has consumed, (T, 80)
    available: list[float] = dataclasses.field(default_factory=list)
    consumed: int = 0  # feature frames consumed
    finished: bool = False
    done: bool = False
    error: str | None = None

    @property
    def duration(self) -> float:
        """Seconds of audio received."""
        return self.fbank.num_samples / SAMPLING_RATE

    @property
    def timestamps(self) -> list[float]:
        """Time of every token of ``result``, in seconds."""
        return [frame / geometry.OUTPUT_RATE for frame in self.result.timestamps]

    @property
    def delays(self) -> list[float]:
        """Seconds from every token's time stamp to the audio that brought it out, computation not counted."""
        return [available - time for available, time in zip(self.available, self.timestamps)]

    def accept_audio(self, samples: Tensor) -> None:
        """samples (S,) float at 16 kHz in [-1, 1], any S. Bad samples give this stream up, with ``error`` set."""
        if self.done:
            return
        problem = check_samples(samples)
        if problem:
            self.fail(f"after {self.duration:.2f} s: {problem}")
            return
        self._append(self.fbank.accept(samples))

    def finish(self) -> None:
        """No more audio will come."""
        if self.finished or self.done:
            return
        self._append(self.fbank.finish())
        self.finished = True
        if self.fbank.num_frames == 0:
            self.done = True  # nothing was said in under 5 ms
            return
        tail = self.frames.new_full((geometry.TAIL_PADDING, NUM_MEL_BINS), geometry.PADDING_VALUE)
        self.frames = torch.cat([self.frames, tail])

    def fail(self, problem: str) -> None:
        """Gives the stream up."""
        self.error = problem
        self.done = True

    def _append(self, frames: Tensor) -> None:
        if frames.size(0):
            self.frames = torch.cat([self.frames, frames])


class Snapshot(NamedTuple):
    """A stream that can be taken up again, by any recognizer of the same model and chunk size."""

    stream: Stream
    state: Tensor  # the encoder's state, packed: (1, S)


class StreamingRecognizer:
    """Batches concurrent streams.

    Args:
      model: put into eval mode.
      searcher: made by ``sammo.search.make_searcher`` for the same model.
      chunk_size: embed frames (20 ms) a step; UserError where the model cannot do it.
      left_context_frames: embed frames of attention cache; the Sammo encoder takes none.
      state_dtype: the states' type between chunks, e.g. ``torch.float16``; None leaves them in float32.
      on_frames: called with each stream and its encoder outputs (T, C) of each chunk.
      runtime: who computes the encoder; None: PyTorch.
    """

    def __init__(
        self,
        model: Transducer,
        searcher: Searcher,
        chunk_size: int,
        left_context_frames: int = 0,
        state_dtype: torch.dtype | None = None,
        on_frames: Callable[[Stream, Tensor], None] | None = None,
        runtime: EncoderRuntime | None = None,
    ):
        if chunk_size <= 0:
            raise UserError(f"streaming needs a chunk size above 0, got {chunk_size}")
        check_chunking(chunk_size, left_context_frames)
        self.encoder = model.encoder.eval()
        self.encoder.check_chunk_size(chunk_size, left_context_frames)
        model.eval()
        self.runtime = runtime or TorchRuntime(self.encoder, chunk_size, left_context_frames)
        self.searcher = searcher.of_projected() if self.runtime.projects else searcher
        self.chunk_size = chunk_size
        self.left_context_frames = left_context_frames
        self.device = next(model.parameters()).device
        self.window = geometry.window(chunk_size)
        self._on_frames = on_frames
        self._states = StateStore(self.runtime.init_state, state_dtype)
        self._streams: list[Stream] = []

    @property
    def streams(self) -> list[Stream]:
        """The streams that are not done."""
        return list(self._streams)

    def open(self, key: Hashable = None, snapshot: Snapshot | None = None) -> Stream:
        """A new stream, or one resumed from ``snapshot``; it takes part in every ``step`` until it is done."""
        if snapshot is not None:
            stream = dataclasses.replace(_copy(snapshot.stream), key=key)
            self._states.set(stream, self._unpack(snapshot.state))
        else:
            state = self.searcher.start()
            frames = torch.zeros(0, NUM_MEL_BINS, device=self.device)
            stream = Stream(key, state, OnlineFbank(str(self.device)), self._best(state), frames)
        self._streams.append(stream)
        return stream

    def snapshot(self, stream: Stream) -> Snapshot:
        """What ``open`` needs to resume ``stream`` as it is now."""
        state = self._states.get(stream)
        return Snapshot(_copy(stream), pack_state(self.runtime.init_state() if state is None else state))

    def ready(self, stream: Stream) -> bool:
        """Is the stream's next chunk complete (or the last one)?"""
        return not stream.done and (stream.finished or stream.frames.size(0) >= self.window)

    @torch.inference_mode()
    def step(self) -> list[Stream]:
        """One chunk of every stream that is ready, as one batch. Returns the streams that moved or ended."""
        moved = [stream for stream in self._streams if stream.done]
        ready = [stream for stream in self._streams if self.ready(stream)]
        if ready:
            self._run(self._states.arrange(ready))
        moved += ready
        for stream in moved:
            if stream.done:
                self._streams.remove(stream)
                self._states.drop(stream)
        return moved

    def _run(self, batch: list[Stream]) -> None:
        features = torch.full((len(batch), self.window, NUM_MEL_BINS), geometry.PADDING_VALUE, device=self.device)
        lengths = []
        for row, stream in zip(features, batch):
            frames = stream.frames[: self.window]
            row[: frames.size(0)] = frames
            lengths.append(frames.size(0))
        state = self._states.take()
        output = self.runtime.step(features, torch.tensor(lengths), state)
        self._states.put(output.state)
        # A row whose model has overflowed must not stop the others.
        sound = output.frames.isfinite().flatten(1).all(1).tolist()
        healthy = []
        for index, stream in enumerate(batch):
            if sound[index]:
                healthy.append(index)
            else:
                seconds = stream.consumed / geometry.FEATURE_RATE
                stream.fail(f"after {seconds:.2f} s: the encoder's output is not finite")
        if self._on_frames is not None:
            for stream, frames, length in zip(batch, output.frames, output.lengths.tolist()):
                self._on_frames(stream, frames[:length])
        if healthy:
            self._search(output.frames, output.lengths, batch, healthy)
        for stream in batch:
            self._advance(stream)

    def _search(self, frames: Tensor, lengths: Tensor, batch: list[Stream], rows: list[int]) -> None:
        if len(rows) < len(batch):
            frames, lengths = frames[rows], lengths[rows]
        streams = [batch[row] for row in rows]
        states = self.searcher.advance(frames, lengths, [stream.search_state for stream in streams])
        for stream, state in zip(streams, states):
            stream.search_state = state
            best = self._best(state)
            # Tokens that were there already keep their time; a beam search may have exchanged some.
            old = list(zip(stream.result.tokens, stream.result.timestamps))
            new = list(zip(best.tokens, best.timestamps))
            same = next((i for i, (a, b) in enumerate(zip(old, new)) if a != b), min(len(old), len(new)))
            seen = samples_for_frames(stream.consumed + self.window) / SAMPLING_RATE
            now = min(seen, stream.duration) if stream.finished else seen
            stream.available[same:] = [now] * (len(new) - same)
            stream.result = best

    def _advance(self, stream: Stream) -> None:
        consumed = geometry.STRIDE * self.chunk_size
        stream.frames = stream.frames[consumed:]
        stream.consumed += consumed
        if stream.finished and stream.frames.size(0) < geometry.MINIMUM:
            stream.done = True

    def _best(self, search_state: SearchState) -> Hypothesis:
        return self.searcher.result(search_state)[0]

    def _unpack(self, packed: Tensor) -> Any:
        like = self.runtime.init_state()
        size = pack_state(like).shape[1]
        if packed.shape != (1, size):
            raise UserError(
                "this snapshot is of another model or left context: "
                f"its state is {tuple(packed.shape)}, not (1, {size})"
            )
        return unpack_state(packed, like)


def _copy(stream: Stream) -> Stream:
    """A stream of its own. Tensors and search states are shared: nobody changes one in place."""
    return dataclasses.replace(stream, fbank=copy.copy(stream.fbank), available=list(stream.available))


def recognize(
    recognizer: StreamingRecognizer,
    sources: Iterable[tuple[Hashable, Callable[[], Iterable[Tensor]]]],
    num_streams: int = 1,
    on_partial: Callable[[Stream], None] | None = None,
) -> Iterator[Stream]:
    """Runs ``sources`` through ``recognizer``, up to ``num_streams`` at a time, and yields the streams as they end.

    Args:
      sources: (key, function that returns the audio as pieces (S,) at 16 kHz). The pieces are taken one by one, when
        the stream needs them; a UserError or OSError on the way gives up that stream only.
      on_partial: called for each stream after each of its chunks.
    """
    if num_streams < 1:
        raise UserError(f"the number of streams must be at least 1, got {num_streams}")
    check_range("the number of streams", num_streams, 1, MOST_STREAMS, "each holds a state and audio in memory")
    waiting = iter(sources)
    feeds: dict[Stream, Iterator[Tensor]] = {}
    while True:
        while len(recognizer.streams) < num_streams:
            item = next(waiting, None)
            if item is None:
                break
            stream = recognizer.open(item[0])
            feeds[stream] = _pieces(item[1])
        if not recognizer.streams:
            return
        for stream in recognizer.streams:
            _feed(recognizer, stream, feeds[stream])
        for stream in recognizer.step():
            if on_partial is not None:
                on_partial(stream)
            if stream.done:
                del feeds[stream]
                yield stream


def _pieces(source: Callable[[], Iterable[Tensor]]) -> Iterator[Tensor]:
    yield from source()


def _feed(recognizer: StreamingRecognizer, stream: Stream, feed: Iterator[Tensor]) -> None:
    while not stream.done and not recognizer.ready(stream):
        try:
            piece = next(feed, None)
        except (UserError, OSError) as error:
            stream.fail(str(error))
            return
        if piece is None:
            stream.finish()
        else:
            stream.accept_audio(piece)
