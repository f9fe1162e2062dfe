"""``sammo transcribe``: audio files to text, chunk by chunk, with what is known so far after every chunk."""

from __future__ import annotations

import sys
from functools import partial
from typing import Sequence

from sammo.decoding import load_system, searcher_for
from sammo.errors import UserError
from sammo.options import Chunks, Deployment, ModelSource, Search, Streams
from sammo.streaming.audio import stream_audio
from sammo.streaming.decoding import settings, state_dtype
from sammo.streaming.recognizer import Stream, StreamingRecognizer, recognize
from sammo.streaming.runtimes import make_runtime


def transcribe(
    files: Sequence[str],
    source: ModelSource,
    chunks: Chunks,
    search: Search,
    streams: Streams,
    channel: int | None = None,
    allow_truncated: bool = False,
    timestamps: bool = False,
    quiet: bool = False,
    deployment: Deployment = Deployment(),  # noqa: B008, a frozen dataclass
) -> int:
    """Prints a line "FILE<tab>TEXT" a file on stdout, partial results and errors on stderr; 1 if any file failed.

    Args:
      channel: of the files, from 0; None: the mean of all.
      allow_truncated: transcribe what is there of files that are cut short, with a warning.
      timestamps: print the time of every token, too.
      quiet: no partial results.
      deployment: who computes the encoder.
    """
    if len(chunks.chunk_size) != 1 or len(chunks.left_context_frames) != 1:
        raise UserError("give one --chunk-size and one --left-context-frames to transcribe with")
    model, tokenizer, _ = load_system(source)
    (chunking,) = settings(model, chunks)
    searcher, runtime = searcher_for(model, search, tokenizer), make_runtime(model, deployment, *chunking)
    recognizer = StreamingRecognizer(model, searcher, *chunking, state_dtype(streams), runtime=runtime)
    shown: dict[Stream, str] = {}

    def show(stream: Stream) -> None:
        text = tokenizer.decode(stream.result.tokens)
        if text != shown.get(stream, ""):
            shown[stream] = text
            name = f"{stream.key}  " if len(files) > 1 else ""
            print(f"{name}{stream.duration:7.2f} s  {text}", file=sys.stderr, flush=True)

    sources = ((path, partial(stream_audio, path, channel, 0.1, allow_truncated)) for path in files)
    failed = 0
    for stream in recognize(recognizer, sources, streams.num_decode_streams, None if quiet else show):
        shown.pop(stream, None)
        if stream.error:
            failed += 1
            print(f"error: {stream.error}", file=sys.stderr, flush=True)
            continue
        print(f"{stream.key}\t{tokenizer.decode(stream.result.tokens)}", flush=True)
        if timestamps:
            for token, time in zip(stream.result.tokens, stream.timestamps):
                print(f"  {time:8.2f}  {tokenizer.piece(token)}", flush=True)
    return 1 if failed else 0
