"""What streaming_decode.py does: test sets decoded chunk by chunk, as many streams at a time as wished."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from pathlib import Path
from typing import IO, Callable, Iterable, Iterator, NamedTuple, Sequence

import torch
from lhotse.cut import Cut
from torch import Tensor

from sammo.checkpoint import ModelInfo
from sammo.corpora import Corpus, find_corpus
from sammo.data.cuts import ManifestCuts
from sammo.data.datamodule import check_units
from sammo.data.features import SAMPLING_RATE, load_audio
from sammo.data.manifests import survey_manifests
from sammo.data.sources import FILES, Allowed
from sammo.data.tokens import Tokenizer
from sammo.data.transcripts import transcript
from sammo.decoding import Chunking, chunkings, default_directory, describe, inputs_of, load_system, searcher_for
from sammo.errors import UserError
from sammo.files import atomic_write
from sammo.options import Chunks, Deployment, ModelSource, Results, Search, Speech, Streams
from sammo.progress import progress
from sammo.scoring import DecodeSetting, has_results, result_name, write_results
from sammo.streaming.recognizer import Stream, StreamingRecognizer, recognize
from sammo.streaming.runtimes import make_runtime
from sammo.transducer import Transducer

PIECE_SECONDS = 0.1  # audio handed over at a time


class StreamedUtterance(NamedTuple):
    """One utterance decoded as a stream."""

    cut_id: str
    reference: str
    hypothesis: str
    timestamps: list[float]  # seconds, one a token
    delays: list[float]  # seconds, one a token
    duration: float  # seconds of audio
    error: str | None


def part_cuts(
    corpus: Corpus, manifest_dir: Path, part: str, mode: str, tokenizer: Tokenizer, allowed: Allowed = FILES
) -> list[Cut]:
    """The cuts of ``part`` that decode.py decodes, too, longest first; UserError where there are none."""
    path = corpus.manifest_path(manifest_dir, part)
    survey = survey_manifests(part, [path], mode, tokenizer, keep_long_texts=True, allowed=allowed)
    return sorted(ManifestCuts([path], survey, allowed), key=lambda cut: -cut.duration)


def cut_audio(cut: Cut) -> Tensor:
    """Samples (S,) of ``cut``, the mean of its channels; UserError where they cannot be read."""
    return torch.from_numpy(load_audio(cut)).mean(0)


def stream_cuts(
    recognizer: StreamingRecognizer,
    cuts: Iterable[Cut],
    tokenizer: Tokenizer,
    mode: str,
    num_streams: int,
    on_partial: Callable[[Stream], None] | None = None,
) -> Iterator[StreamedUtterance]:
    """Decodes ``cuts``, in the order in which they end."""
    piece = round(PIECE_SECONDS * SAMPLING_RATE)
    sources = ((cut, lambda cut=cut: cut_audio(cut).split(piece)) for cut in cuts)
    for stream in recognize(recognizer, sources, num_streams, on_partial):
        cut = stream.key
        if stream.error:
            logging.warning(f"cut {cut.id} was given up: {stream.error}")
        yield StreamedUtterance(
            cut.id,
            transcript(cut, mode),
            tokenizer.decode(stream.result.tokens),
            stream.timestamps,
            stream.delays,
            stream.duration,
            stream.error,
        )


def delay_summary(delays: Sequence[float]) -> dict[str, float]:
    """Count, mean and percentiles (seconds) of the delays between speech and token."""
    if not delays:
        return {"tokens": 0}
    values = torch.tensor(delays, dtype=torch.float64)
    shares = torch.tensor([0.5, 0.9, 0.99], dtype=torch.float64)
    middle, high, highest = torch.quantile(values, shares, interpolation="lower").tolist()
    return {
        "tokens": len(delays),
        "mean": float(values.mean()),
        "p50": middle,
        "p90": high,
        "p99": highest,
        "max": float(values.max()),
    }


def state_dtype(streams: Streams) -> torch.dtype | None:
    """Type to keep states in; None: the one that the encoder computes in."""
    return None if streams.state_dtype == "float32" else getattr(torch, streams.state_dtype)


def settings(model: Transducer, chunks: Chunks) -> list[Chunking]:
    """The chunk sizes and left contexts to decode at; UserError where the model cannot stream one of them."""
    for chunk in chunks.chunk_size:
        if chunk <= 0:
            raise UserError(f"streaming needs chunk sizes above 0, got {chunk}")
    if min(chunks.left_context_frames) < 0:
        raise UserError(f"streaming needs a left context that ends, got {min(chunks.left_context_frames)}")
    return chunkings(model, chunks.chunk_size, chunks.left_context_frames, chunks.round_left_context)


def streaming_decode(
    source: ModelSource,
    chunks: Chunks,
    search: Search,
    streams: Streams,
    speech: Speech,
    parts: Sequence[str],
    results: Results,
    partial_results: bool,
    deployment: Deployment = Deployment(),  # noqa: B008, a frozen dataclass
) -> int:
    """Decodes every part at every setting that has no results yet. Returns the exit status: 1 if an utterance failed."""
    model, tokenizer, info = load_system(source, speech)
    res_dir = results.res_dir or default_directory(source, search)
    corpus = find_corpus(speech.manifest_dir, speech.corpus)
    check_units(corpus, tokenizer)
    mode = speech.transcript_mode or info.transcript_mode
    searcher = searcher_for(model, search, tokenizer)
    failed = 0
    for chunking in settings(model, chunks):
        setting = _setting(model, info, source, search, streams, speech, chunking, deployment)
        runtime = make_runtime(model, deployment, *chunking, source)
        for part in corpus.chosen(parts):
            inputs = inputs_of(corpus, speech, part, tokenizer)
            if runtime.digest:
                inputs["export"] = runtime.digest
            if not results.force and has_results(res_dir, setting, part, corpus.metric, inputs):
                logging.info(f"{part}: decoded before at {setting.suffix} (--force decodes again)")
                continue
            recognizer = StreamingRecognizer(model, searcher, *chunking, state_dtype(streams), runtime=runtime)
            cuts = part_cuts(corpus, speech.manifest_dir, part, mode, tokenizer, Allowed(urls=speech.allow_urls))
            started = time.perf_counter()
            with contextlib.ExitStack() as stack:
                file = None
                if partial_results:
                    res_dir.mkdir(parents=True, exist_ok=True)
                    path = res_dir / f"partials-{result_name(res_dir, setting, part)}.txt"
                    file = stack.enter_context(atomic_write(path))
                found = _decode_part(recognizer, cuts, tokenizer, mode, part, streams.num_decode_streams, file)
            elapsed = time.perf_counter() - started
            failed += sum(utterance.error is not None for utterance in found)
            _report(res_dir, setting, part, corpus, found, elapsed, inputs)
    if failed:
        logging.error(
            f"{failed} utterance(s) were given up; they are scored with what they gave until then, their parts are "
            "marked as incomplete and decoded again by the next run"
        )
    return 1 if failed else 0


def _setting(
    model: Transducer,
    info: ModelInfo,
    source: ModelSource,
    search: Search,
    streams: Streams,
    speech: Speech,
    chunking: Chunking,
    deployment: Deployment,
) -> DecodeSetting:
    """What the results of real streaming are filed under."""
    setting = describe(model, info, source, search, speech, chunking)
    dtype = state_dtype(streams) or torch.float32
    return dataclasses.replace(
        setting,
        search="-".join(filter(None, (setting.search, runtime_name(deployment)))),
        streaming=True,
        state_dtype=streams.state_dtype,
        state_bytes=setting.state_bytes * dtype.itemsize // 4,
    )


def runtime_name(deployment: Deployment) -> str:
    """The label of results that another runtime than PyTorch computed, "openvino-int8"; "" for PyTorch."""
    if deployment.runtime == "torch":
        return ""
    return "-".join((deployment.runtime, deployment.precision)).removesuffix("-float32")


def _decode_part(
    recognizer: StreamingRecognizer,
    cuts: Sequence[Cut],
    tokenizer: Tokenizer,
    mode: str,
    part: str,
    num_streams: int,
    partials: IO[str] | None,
) -> list[StreamedUtterance]:
    def write_partial(stream: Stream) -> None:
        text = tokenizer.decode(stream.result.tokens)
        print(f"{stream.key.id}\t{stream.duration:.2f}\t{text}", file=partials)

    on_partial = None if partials is None else write_partial
    running = stream_cuts(recognizer, cuts, tokenizer, mode, num_streams, on_partial)
    return list(progress(running, total=len(cuts), desc=part))


def _report(
    res_dir: Path,
    setting: DecodeSetting,
    part: str,
    corpus: Corpus,
    results: list[StreamedUtterance],
    elapsed: float,
    inputs: dict[str, str],
) -> None:
    """Writes the result files, delays among them, and logs one line."""
    delays = delay_summary([delay for result in results for delay in result.delays])
    audio = sum(result.duration for result in results)
    extra = {"delay_seconds": delays, "audio_seconds": audio, "wall_seconds": elapsed}
    scored = [(result.cut_id, result.reference, result.hypothesis, result.timestamps) for result in results]
    failed = {result.cut_id: result.error for result in results if result.error is not None}
    rates = write_results(res_dir, setting, part, scored, extra, corpus, failed, inputs)
    line = f"{part}, {setting.suffix}: {', '.join(map(str, rates))}"
    if delays["tokens"]:
        line += f", delay {delays['mean']:.2f} s (median {delays['p50']:.2f}, 90 % {delays['p90']:.2f})"
    logging.info(f"{line}, {audio / max(elapsed, 1e-9):.1f} x real time")
