"""Proof that simulated and real streaming are the same thing for a trained model.

Both sides start from the same audio and compute its features themselves: the simulated one with lhotse on the whole
utterance, the real one piece by piece. (Stored features may be compressed with losses; decode.py reads those unless
it is told --on-the-fly-feats true.)
"""

from __future__ import annotations

import random
import sys
from functools import partial
from typing import Callable, Iterable, Iterator, NamedTuple, Sequence, TypeVar

import torch
from torch import Tensor

from sammo import geometry
from sammo.corpora import find_corpus
from sammo.data.datamodule import check_units
from sammo.data.features import NUM_MEL_BINS, SAMPLING_RATE
from sammo.data.sources import Allowed
from sammo.data.transcripts import transcript
from sammo.decoding import load_system, searcher_for
from sammo.options import Chunks, Deployment, ModelSource, Search, Speech, Streams
from sammo.progress import progress
from sammo.scoring import count_errors
from sammo.scoring.cer import error_rate, total
from sammo.search import Searcher
from sammo.streaming.decoding import cut_audio, part_cuts, settings, state_dtype
from sammo.streaming.features import make_fbank, num_frames
from sammo.streaming.recognizer import Stream, StreamingRecognizer, recognize
from sammo.streaming.runtimes import EncoderRuntime, make_runtime
from sammo.transducer import Transducer

T = TypeVar("T")
PIECE = 4000  # samples handed to a stream at a time; not a multiple of any chunk, so that pieces straddle them


class Utterance(NamedTuple):
    """An utterance to compare on."""

    key: str
    load: Callable[[], Tensor]  # -> samples (S,) at 16 kHz
    reference: str


class Decoded(NamedTuple):
    """One utterance decoded one way."""

    tokens: list[int]
    timestamps: list[int]
    frames: Tensor  # encoder outputs (T, C)


class Parity(NamedTuple):
    """The comparison of one part at one setting; see :func:`compare`."""

    utterances: int
    identical: int  # utterances whose tokens and time stamps agree
    max_deviation: float  # of any encoder output value of those
    different: list[str]  # keys of the others
    rates: tuple[float, float, float]  # percent: simulated, streaming, streaming with the state in 16 bit


def decode_simulated(
    model: Transducer, searcher: Searcher, audio: Sequence[Tensor], chunk_size: int, left_context_frames: int
) -> list[Decoded]:
    """Whole utterances (samples at 16 kHz) in one batch, with chunks made by the attention mask, tails padded."""
    device = next(model.parameters()).device
    fbank = make_fbank(str(device))
    lengths = [num_frames(samples.numel()) + geometry.TAIL_PADDING for samples in audio]
    features = torch.full((len(audio), max(lengths), NUM_MEL_BINS), geometry.PADDING_VALUE, device=device)
    for row, samples, length in zip(features, audio, lengths):
        row[: length - geometry.TAIL_PADDING] = torch.as_tensor(fbank.extract(samples.to(device), SAMPLING_RATE))
    with torch.inference_mode():
        output = model.encoder(
            features,
            torch.tensor(lengths, device=device),
            chunk_size=chunk_size,
            left_context_frames=left_context_frames,
        )
        hypotheses = searcher(output.frames, output.lengths)
    return [
        Decoded(best[0].tokens, best[0].timestamps, frames[:length])
        for best, frames, length in zip(hypotheses, output.frames, output.lengths.tolist())
    ]


def decode_streaming(
    model: Transducer,
    searcher: Searcher,
    audio: Sequence[Tensor],
    chunk_size: int,
    left_context_frames: int,
    num_streams: int,
    state_dtype: torch.dtype | None = None,
    order: Sequence[int] | None = None,
    piece: int = PIECE,
    runtime: EncoderRuntime | None = None,
) -> list[Decoded | str]:
    """The same chunk by chunk, up to ``num_streams`` at a time in ``order``; a str is a stream's error."""
    frames: dict[int, list[Tensor]] = {}

    def keep(stream: Stream, chunk: Tensor) -> None:
        frames.setdefault(stream.key, []).append(chunk)

    recognizer = StreamingRecognizer(model, searcher, chunk_size, left_context_frames, state_dtype, keep, runtime)
    order = range(len(audio)) if order is None else order
    sources = ((index, lambda samples=audio[index]: samples.split(piece)) for index in order)
    decoded: dict[int, Decoded | str] = {}
    for stream in recognize(recognizer, sources, num_streams):
        result, chunks = stream.result, frames.pop(stream.key, [])
        joined = torch.cat(chunks) if chunks else torch.zeros(0)
        decoded[stream.key] = stream.error or Decoded(list(result.tokens), list(result.timestamps), joined)
    return [decoded[index] for index in range(len(audio))]


def compare(
    model: Transducer,
    searcher: Searcher,
    utterances: Iterable[Utterance],
    to_text: Callable[[list[int]], str],
    chunk_size: int,
    left_context_frames: int,
    num_streams: int,
    half: torch.dtype = torch.float16,
    seed: int = 0,
    metric: str = "CER",
    runtime: EncoderRuntime | None = None,
) -> Parity:
    """Decodes each utterance three ways: simulated; chunk by chunk among ``num_streams`` concurrent streams in
    shuffled order; and the latter with the state kept in ``half`` between chunks.

    Memory holds the audio and the encoder outputs of a few times ``num_streams`` utterances.
    """
    shuffle = random.Random(seed)
    deviation, different = 0.0, []
    counts: tuple[list, list, list] = ([], [], [])
    for group in _groups(utterances, 4 * num_streams):
        audio = [utterance.load() for utterance in group]
        simulated: list[Decoded] = []
        for start in range(0, len(audio), num_streams):
            batch = audio[start : start + num_streams]
            simulated += decode_simulated(model, searcher, batch, chunk_size, left_context_frames)
        order = shuffle.sample(range(len(audio)), len(audio))
        setting = (model, searcher, audio, chunk_size, left_context_frames, num_streams)
        streaming = decode_streaming(*setting, order=order, runtime=runtime)
        halved = decode_streaming(*setting, state_dtype=half, order=order, runtime=runtime)
        if runtime is not None and runtime.projects:
            simulated = [_projected(model, decoded) for decoded in simulated]
        for utterance, a, b, c in zip(group, simulated, streaming, halved):
            if isinstance(b, str) or a.frames.shape != b.frames.shape or a[:2] != b[:2]:
                different.append(utterance.key)
            elif a.frames.numel():
                deviation = max(deviation, float((a.frames - b.frames).abs().max()))
            for way, counted in zip((a, b, c), counts):
                text = "" if isinstance(way, str) else to_text(way.tokens)
                counted.append(count_errors(utterance.reference, text, metric))
    count = len(counts[0])
    whole, by_chunk, by_chunk_half = (error_rate(total(counted)) for counted in counts)
    return Parity(count, count - len(different), deviation, different, (whole, by_chunk, by_chunk_half))


@torch.no_grad()
def _projected(model: Transducer, decoded: Decoded) -> Decoded:
    return decoded._replace(frames=model.joiner.encoder_proj(decoded.frames))


def _groups(items: Iterable[T], size: int) -> Iterator[list[T]]:
    group = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def print_parity(
    source: ModelSource,
    chunks: Chunks,
    search: Search,
    streams: Streams,
    speech: Speech,
    parts: Sequence[str],
    max_utterances: int,
    deployment: Deployment = Deployment(),  # noqa: B008, a frozen dataclass
) -> int:
    """Prints the table, a row a part and setting; 1 if any utterance came out differently.

    ``max_utterances`` of a part; 0: all.
    """
    model, tokenizer, info = load_system(source, speech)
    corpus = find_corpus(speech.manifest_dir, speech.corpus)
    check_units(corpus, tokenizer)
    metric = corpus.metric
    mode = speech.transcript_mode or info.transcript_mode
    half = state_dtype(streams) or torch.float16
    print(
        f"{info.encoder}, {info.checkpoint}; {search.decoding_method}, {streams.num_decode_streams} streams, "
        f"{deployment.runtime}{' int8' if deployment.int8 else ''}\n"
    )
    print(
        "| part | chunk | left context | utterances | identical | max deviation "
        f"| {metric} simulated | {metric} chunk by chunk | {metric}, state in {str(half).removeprefix('torch.')} |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    different = 0
    for part in corpus.chosen(parts):
        cuts = part_cuts(corpus, speech.manifest_dir, part, mode, tokenizer, Allowed(urls=speech.allow_urls))
        cuts = cuts[: max_utterances or None]
        for chunk_size, left in settings(model, chunks):
            utterances = (Utterance(cut.id, partial(cut_audio, cut), transcript(cut, mode)) for cut in cuts)
            runtime = make_runtime(model, deployment, chunk_size, left)
            found = compare(
                model,
                searcher_for(model, search, tokenizer),
                progress(utterances, len(cuts), f"{part}, chunk {chunk_size}"),
                tokenizer.decode,
                chunk_size,
                left,
                streams.num_decode_streams,
                half,
                metric=metric,
                runtime=runtime,
            )
            different += len(found.different)
            rates = " | ".join(f"{rate:.2f}" for rate in found.rates)
            print(
                f"| {part} | {chunk_size} | {left} | {found.utterances} | {found.identical} "
                f"| {found.max_deviation:.1e} | {rates} |",
                flush=True,
            )
            for key in found.different[:5]:
                print(f"different: {part} {key}, chunk {chunk_size}, left context {left}", file=sys.stderr)
    return 1 if different else 0
