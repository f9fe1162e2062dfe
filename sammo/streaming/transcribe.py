"""``sammo transcribe``: audio to text while it arrives."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from sammo.decoding import load_system, searcher_for
from sammo.encoder.state import state_numel
from sammo.errors import UserError
from sammo.options import MOST_STREAMS, Chunks, Deployment, Endpointing, ModelSource, Search, Streams, check_range
from sammo.signals import StopRequest
from sammo.streaming.audio import stream_audio
from sammo.streaming.decoding import delay_summary, settings, state_dtype
from sammo.streaming.live import PIECE, microphone, raw_audio
from sammo.streaming.options import TranscribeOptions
from sammo.streaming.output import Output, Screen
from sammo.streaming.recognizer import StreamingRecognizer, fill, pieces
from sammo.streaming.runtimes import make_runtime
from sammo.streaming.session import Event, Session, Sessions

SUFFIXES = ".wav .wave .flac .ogg .oga .opus .mp3 .aiff .aif .aifc .au .snd .w64 .caf .sph .nist".split()
# Parameters. Below, operations end before a second thread has begun, and on a busy machine each of them waits for it.
SMALL = 10_000_000
Source = tuple[str, Callable[[], Iterable[Tensor]]]  # its name, and what returns its pieces (S,) at 16 kHz


@dataclass
class Measured:
    """What a run took, in seconds."""

    audio: float = 0.0
    steps: list[float] = field(default_factory=list)  # computation of each chunk of the batch
    delays: list[float] = field(default_factory=list)  # from what was said to the audio that brought the token out
    began: float = field(default_factory=time.perf_counter)

    def add(self, event: Event) -> None:
        """Counts an utterance."""
        self.delays += event.delays

    def summary(self, live: bool, state_bytes: int) -> str:
        """One line. The real-time factor counts computation alone for live audio, all elapsed time for files."""
        spent = sum(self.steps) if live else time.perf_counter() - self.began
        line = f"{self.audio:.1f} s of audio, real-time factor {spent / max(self.audio, 1e-9):.3f}"
        delays, steps = delay_summary(self.delays), delay_summary(self.steps)
        if delays["tokens"]:
            line += f", latency {delays['p50']:.2f} s (median; 90 %: {delays['p90']:.2f})"
        if steps["tokens"]:
            line += f" and {1000 * steps['p50']:.0f} ms of computation (99 %: {1000 * steps['p99']:.0f})"
        return f"{line}, state {state_bytes / 1024:.0f} KiB a stream"


def transcribe(
    audio: Sequence[str],
    options: TranscribeOptions,
    source: ModelSource,
    chunks: Chunks,
    search: Search,
    streams: Streams,
    endpointing: Endpointing = Endpointing(),  # noqa: B008, a frozen dataclass
    deployment: Deployment = Deployment(),  # noqa: B008, a frozen dataclass
) -> int:
    """Results on stdout or in files, partial results, errors and a summary on stderr; 1 if any source failed.

    Args:
      audio: files, directories, or "-" alone for raw samples from standard input; () with ``options.mic``.
    """
    stop = StopRequest()
    sources, live = find_sources(audio, options, lambda: stop.received is not None)
    check_range("--num-streams", options.num_streams, 1, MOST_STREAMS, "each holds a state and audio in memory")
    sessions = make_sessions(source, chunks, search, streams, deployment)
    output = Output(options, sessions.tokenizer, [name for name, _ in sources], live)
    screen, measured, failed = Screen(sys.stderr), Measured(), 0
    with stop if live else contextlib.nullcontext():
        for session in follow(sessions, sources, options.num_streams, endpointing, measured.steps):
            name = str(session.key)
            for event in session.events():
                if event.final:
                    screen.clear()
                    output.add(name, event)
                    measured.add(event)
                elif not options.quiet:
                    screen.show(f"{name}  " if len(sources) > 1 else "", session.duration, event.text)
            if session.done:
                screen.clear()
                measured.audio += session.duration
                failed += session.error is not None
                if session.error:
                    print(f"error: {session.error}", file=sys.stderr, flush=True)
                output.end(name, session.error is not None)
    if measured.audio and not options.quiet:
        print(measured.summary(live, state_bytes(sessions.recognizer)), file=sys.stderr, flush=True)
    return 1 if failed else 0


def make_sessions(
    source: ModelSource,
    chunks: Chunks,
    search: Search,
    streams: Streams,
    deployment: Deployment = Deployment(),  # noqa: B008, a frozen dataclass
) -> Sessions:
    """The sessions of the model that the options name, of one chunk size and left context.

    Raises:
      UserError: the model is not there or cannot do what is asked for.
    """
    if len(chunks.chunk_size) != 1 or len(chunks.left_context_frames) != 1:
        raise UserError("give one --chunk-size and one --left-context-frames to transcribe with")
    model, tokenizer, _ = load_system(source)
    if source.num_threads == 0 and sum(p.numel() for p in model.parameters()) < SMALL:
        torch.set_num_threads(1)
    (chunking,) = settings(model, chunks)
    searcher, runtime = searcher_for(model, search, tokenizer), make_runtime(model, deployment, *chunking, source)
    return Sessions(StreamingRecognizer(model, searcher, *chunking, state_dtype(streams), runtime=runtime), tokenizer)


def follow(
    sessions: Sessions,
    sources: Iterable[Source],
    num_streams: int = 1,
    endpointing: Endpointing | None = None,
    steps: list[float] | None = None,
) -> Iterator[Session]:
    """Runs ``sources``, up to ``num_streams`` at a time, and yields each session after each of its chunks and at its end.

    Args:
      sources: the session's key, and a function that returns the audio as pieces (S,) at 16 kHz. They are taken one by
        one; a UserError or OSError on the way gives up that session only.
      steps: takes the seconds of computation of each step.
    """
    waiting = iter(sources)
    feeds: dict[Session, Iterator[Tensor]] = {}
    while True:
        while len(feeds) < num_streams and (item := next(waiting, None)) is not None:
            feeds[sessions.open(item[0], endpointing)] = pieces(item[1])
        if not feeds:
            return
        for session, feed in feeds.items():
            fill(sessions.recognizer, session.stream, feed)
        began = time.perf_counter()
        moved = sessions.step()
        if steps is not None:
            steps.append(time.perf_counter() - began)
        for session in moved:
            yield session
            if session.done:
                del feeds[session]


def find_sources(
    audio: Sequence[str], options: TranscribeOptions, stopped: Callable[[], bool]
) -> tuple[list[Source], bool]:
    """What to transcribe, and whether it is live: without an end that is known.

    Raises:
      UserError: nothing is named, directories without audio, live audio beside other.
    """
    if options.mic:
        if audio:
            raise UserError("--mic listens to the microphone alone; leave the files out")
        return [("microphone", partial(microphone, options.mic_device, stopped))], True
    if "-" in audio:
        if len(audio) > 1:
            raise UserError("- stands for raw samples from standard input; it cannot be mixed with files")
        if sys.stdin is None or sys.stdin.isatty():
            raise UserError("- stands for raw samples from standard input, and there are none: pipe them in")
        read = partial(raw_audio, sys.stdin.buffer, options.sampling_rate, options.pcm_format, stopped)
        return [("stdin", read)], True
    if not audio:
        raise UserError("name audio files or directories, - for raw samples from standard input, or pass --mic")
    files = [file for name in audio for file in (_audio_below(name) if os.path.isdir(name) else [name])]
    read_file = partial(stream_audio, channel=options.channel, seconds=PIECE, allow_truncated=options.allow_truncated)
    return [(name, partial(read_file, name)) for name in files], False


def _audio_below(directory: str) -> list[str]:
    found = sorted(str(path) for path in Path(directory).rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise UserError(f"no audio files below {directory} (*{', *'.join(SUFFIXES[:6])}, ...)")
    return found


def state_bytes(recognizer: StreamingRecognizer) -> int:
    """What the encoder keeps of a stream between chunks."""
    dtype = recognizer.state_dtype or torch.float32
    return state_numel(recognizer.runtime.init_state()) * dtype.itemsize
