"""Many streams, decoded chunk by chunk in batches: what a server runs, and what streaming_decode.py measures.

Audio goes in piece by piece, per stream and at any time; :meth:`StreamingRecognizer.step` takes every stream whose
next chunk is complete, runs them as one batch and updates their results. Each stream's result is the one it would
get alone.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from typing import Any, Callable, Iterable, Iterator, NamedTuple

import torch
from torch import Tensor

from sammo import geometry
from sammo.checkpoint.schema import weights_digest
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
      chunk_size: embed frames (20 ms) that the next chunk takes.
      result: the best tokens of this utterance so far and their time stamps in encoder outputs (40 ms) of the stream.
      available: for every token of ``result``, seconds of audio that had to arrive before it stood there for good.
      done: nothing more will come.
      error: one line where the stream was given up; ``result`` then holds what came before.
    """

    key: Any
    search_state: SearchState
    fbank: OnlineFbank
    result: Hypothesis
    frames: Tensor  # features that no chunk has consumed, (T, 80)
    chunk_size: int
    available: list[float] = dataclasses.field(default_factory=list)
    consumed: int = 0  # feature frames consumed
    begin: int = 0  # how many of them before this utterance
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
    """A stream that can be taken up again, by any recognizer of the same model and search."""

    stream: Stream
    state: Tensor  # the encoder's state, packed: (1, S)


class Width(NamedTuple):
    """The runtime of one chunk width, and the states of the streams that have it."""

    runtime: EncoderRuntime
    states: StateStore


class StreamingRecognizer:
    """Batches concurrent streams, those with chunks of one width together.

    Args:
      model: put into eval mode.
      searcher: made by ``sammo.search.make_searcher`` for the same model.
      chunk_size: embed frames (20 ms) a step, of streams that are not given their own; UserError where the model cannot
        do it.
      left_context_frames: embed frames of attention cache; the Sammo encoder takes none.
      state_dtype: the states' type between chunks, e.g. ``torch.float16``; None leaves them in float32.
      on_frames: called with each stream and its encoder outputs (T, C) of each chunk.
      runtime: who computes the encoder at ``chunk_size``; None: PyTorch.
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
        self.model = model.eval()
        self.chunk_size = chunk_size
        self.left_context_frames = left_context_frames
        self._check(chunk_size)
        self.runtime = runtime or TorchRuntime(model.encoder, chunk_size, left_context_frames)
        self.searcher = searcher.of_projected() if self.runtime.projects else searcher
        self.device = next(model.parameters()).device
        self._on_frames = on_frames
        self.state_dtype = state_dtype
        self._widths: dict[int, Width] = {}
        self._streams: list[Stream] = []

    @functools.cached_property
    def weights(self) -> str:
        """sha256 in hex of the model's weights."""
        return weights_digest(self.model.state_dict())

    @property
    def streams(self) -> list[Stream]:
        """The streams that are not done."""
        return list(self._streams)

    def open(self, key: Any = None, snapshot: Snapshot | None = None, chunk_size: int | None = None) -> Stream:
        """A new stream, or one resumed from ``snapshot``; it takes part in every ``step`` until it is done.

        Args:
          key: whatever the caller knows it by.
          snapshot: of :meth:`snapshot`.
          chunk_size: embed frames of its chunks; None: the recognizer's, or the snapshot's.
        """
        if snapshot is not None:
            stream = dataclasses.replace(_copy(snapshot.stream), key=key)
            state = self._unpack(snapshot.state)
            self._width(stream.chunk_size).states.set(stream, state)
            if chunk_size is not None:
                self.set_chunk_size(stream, chunk_size)
        else:
            chunk_size = self.chunk_size if chunk_size is None else chunk_size
            self._width(chunk_size)
            state = self.searcher.start()
            frames = torch.zeros(0, NUM_MEL_BINS, device=self.device)
            stream = Stream(key, state, OnlineFbank(str(self.device)), self._best(state), frames, chunk_size)
        self._streams.append(stream)
        return stream

    def snapshot(self, stream: Stream) -> Snapshot:
        """What ``open`` needs to resume ``stream`` as it is now."""
        state = self._width(stream.chunk_size).states.get(stream)
        return Snapshot(_copy(stream), pack_state(self.runtime.init_state() if state is None else state))

    def set_chunk_size(self, stream: Stream, chunk_size: int) -> None:
        """From its next chunk on, ``stream`` takes chunks of so many embed frames. Nothing is lost or computed again:
        the state does not depend on the width.

        Raises:
          UserError: the model or the runtime cannot do it; the stream continues as before.
        """
        if chunk_size == stream.chunk_size:
            return
        width = self._width(chunk_size)
        state = self._width(stream.chunk_size).states.pop(stream)
        if state is not None:
            width.states.set(stream, state)
        stream.chunk_size = chunk_size

    def restart(self, stream: Stream, reset_encoder: bool = False) -> None:
        """Begins the next utterance of ``stream`` where its last chunk ended.

        Args:
          stream: one that is not done.
          reset_encoder: what comes is recognized as if the stream began there; otherwise the encoder's state and the
            predictor's context are kept.
        """
        stream.search_state = self.searcher.restart(stream.search_state, keep_context=not reset_encoder)
        stream.result, stream.available, stream.begin = self._best(stream.search_state), [], stream.consumed
        if reset_encoder:
            self._width(stream.chunk_size).states.drop(stream)

    def ready(self, stream: Stream) -> bool:
        """Whether the audio of the stream's next chunk, or of its last one, has arrived."""
        return not stream.done and (stream.finished or stream.frames.size(0) >= geometry.window(stream.chunk_size))

    @torch.inference_mode()
    def step(self) -> list[Stream]:
        """Computes a chunk of every stream that is ready, a batch per chunk width. Returns the streams that moved or ended."""
        moved = [stream for stream in self._streams if stream.done]
        ready: dict[int, list[Stream]] = {}
        for stream in self._streams:
            if self.ready(stream):
                ready.setdefault(stream.chunk_size, []).append(stream)
        for chunk_size, streams in ready.items():
            self._run(self._width(chunk_size), streams)
            moved += streams
        for stream in moved:
            if stream.done:
                self.close(stream)
        return moved

    def close(self, stream: Stream) -> None:
        """Forgets ``stream``, done or not."""
        if stream in self._streams:
            self._streams.remove(stream)
            self._width(stream.chunk_size).states.drop(stream)

    def _run(self, width: Width, streams: list[Stream]) -> None:
        batch = width.states.arrange(streams)
        window = geometry.window(batch[0].chunk_size)
        features = torch.full((len(batch), window, NUM_MEL_BINS), geometry.PADDING_VALUE, device=self.device)
        lengths = []
        for row, stream in zip(features, batch):
            frames = stream.frames[:window]
            row[: frames.size(0)] = frames
            lengths.append(frames.size(0))
        output = width.runtime.step(features, torch.tensor(lengths), width.states.take())
        width.states.put(output.state)
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
            seen = samples_for_frames(stream.consumed + geometry.window(stream.chunk_size)) / SAMPLING_RATE
            now = min(seen, stream.duration) if stream.finished else seen
            stream.available[same:] = [now] * (len(new) - same)
            stream.result = best

    def _advance(self, stream: Stream) -> None:
        consumed = geometry.STRIDE * stream.chunk_size
        stream.frames = stream.frames[consumed:]
        stream.consumed += consumed
        if stream.finished and stream.frames.size(0) < geometry.MINIMUM:
            stream.done = True

    def _width(self, chunk_size: int) -> Width:
        if chunk_size not in self._widths:
            self._check(chunk_size)
            runtime = self.runtime if chunk_size == self.chunk_size else self.runtime.of_width(chunk_size)
            self._widths[chunk_size] = Width(runtime, StateStore(runtime.init_state, self.state_dtype))
        return self._widths[chunk_size]

    def _check(self, chunk_size: int) -> None:
        if chunk_size <= 0:
            raise UserError(f"streaming needs a chunk size above 0, got {chunk_size}")
        check_chunking(chunk_size, self.left_context_frames)
        self.model.encoder.check_chunk_size(chunk_size, self.left_context_frames)

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
    sources: Iterable[tuple[Any, Callable[[], Iterable[Tensor]]]],
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
            feeds[stream] = pieces(item[1])
        if not recognizer.streams:
            return
        for stream in recognizer.streams:
            fill(recognizer, stream, feeds[stream])
        for stream in recognizer.step():
            if on_partial is not None:
                on_partial(stream)
            if stream.done:
                del feeds[stream]
                yield stream


def pieces(source: Callable[[], Iterable[Tensor]]) -> Iterator[Tensor]:
    """The audio of ``source``, which is first asked when the first piece is."""
    yield from source()


def fill(recognizer: StreamingRecognizer, stream: Stream, feed: Iterator[Tensor]) -> None:
    """Takes pieces of audio (S,) from ``feed`` until ``stream`` has a chunk, or has ended. An error of the feed gives the
    stream up."""
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
