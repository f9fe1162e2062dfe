"""Proof that simulated and real streaming, in whatever runtime, are the same thing for a trained model.

All sides start from the same audio and compute its features themselves: the simulated one with lhotse on the whole
utterance, the real ones piece by piece. (Stored features may be compressed with losses; decode.py reads those unless
it is told --on-the-fly-feats true.)
"""

from __future__ import annotations

import itertools
import random
import sys
from contextlib import ExitStack
from functools import partial
from typing import Any, Callable, Iterable, Iterator, NamedTuple, Sequence, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from sammo import geometry
from sammo.corpora import find_corpus
from sammo.data.datamodule import check_units
from sammo.data.features import NUM_MEL_BINS, SAMPLING_RATE
from sammo.data.sources import Allowed
from sammo.data.transcripts import transcript
from sammo.decoding import Chunking, load_system, searcher_for
from sammo.options import Chunks, Compared, Deployment, ModelSource, Search, Speech, Streams
from sammo.progress import progress
from sammo.scoring import count_errors
from sammo.scoring.cer import Counts, error_rate, total
from sammo.search import Searcher
from sammo.streaming.decoding import cut_audio, part_cuts, runtime_name, settings, state_dtype
from sammo.streaming.features import make_fbank, num_frames
from sammo.streaming.recognizer import Stream, StreamingRecognizer, recognize
from sammo.streaming.runtimes import EncoderRuntime, export_directory, make_runtime
from sammo.streaming.sherpa import make_recognizer, sherpa_way, transcribe
from sammo.streaming.sherpa_server import SherpaServer
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

    tokens: list[Any]  # ids, or the characters of a way that knows no ids
    timestamps: list[int]
    frames: Tensor  # encoder outputs (T, C)


class Way(NamedTuple):
    """A way to decode chunk by chunk, compared with the whole utterances of simulated streaming."""

    name: str
    # audio of some utterances, the order to take them in -> what came out of each; a str is its error
    decode: Callable[[Sequence[Tensor], Sequence[int]], list[Decoded | str]]
    projects: bool = False  # whether its frames are projected for the joiner
    exact: bool = True  # whether tokens and time stamps must be the same
    to_text: Callable[[list[Any]], str] | None = None  # None: as for all others
    silence: int = 0  # samples behind the audio, here and in the simulated pass that it is compared with


class Parity(NamedTuple):
    """What one way made of one part at one setting; see :func:`compare`."""

    way: str
    utterances: int
    identical: int  # utterances whose tokens and time stamps are those of the simulated pass
    same_text: int
    empty: int
    counts: Counts  # errors against the reference
    max_deviation: float  # of any encoder output value of the identical ones
    different: list[str]  # keys of those that are not and should be

    @property
    def rate(self) -> float:
        """Error rate in percent."""
        return error_rate(self.counts)


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


def torch_way(
    model: Transducer,
    searcher: Searcher,
    chunk_size: int,
    left_context_frames: int,
    num_streams: int,
    name: str = "chunk by chunk",
    state_dtype: torch.dtype | None = None,
    runtime: EncoderRuntime | None = None,
    exact: bool = True,
) -> Way:
    """Concurrent streams; see :func:`decode_streaming`."""

    def decode(audio: Sequence[Tensor], order: Sequence[int]) -> list[Decoded | str]:
        setting = (model, searcher, audio, chunk_size, left_context_frames, num_streams)
        return decode_streaming(*setting, state_dtype=state_dtype, order=order, runtime=runtime)

    return Way(name, decode, runtime is not None and runtime.projects, exact)


def compare(
    model: Transducer,
    searcher: Searcher,
    utterances: Iterable[Utterance],
    to_text: Callable[[list[int]], str],
    chunk_size: int,
    left_context_frames: int,
    num_streams: int,
    ways: Sequence[Way],
    seed: int = 0,
    metric: str = "CER",
) -> list[Parity]:
    """Decodes each utterance simulated and in every way, in shuffled order; the first result is the simulated one's.

    Memory holds the audio and the encoder outputs of a few times ``num_streams`` utterances.
    """
    shuffle = random.Random(seed)
    simulating = Way("simulated", lambda audio, order: [])
    tallies = [_Tally(way, to_text, metric) for way in (simulating, *ways)]
    for group in _groups(utterances, 4 * num_streams):
        audio = [utterance.load() for utterance in group]
        whole: dict[int, tuple[list[Tensor], list[Decoded]]] = {}  # by the silence behind the audio
        for silence in {tally.way.silence for tally in tallies}:
            padded = [F.pad(samples, (0, silence)) for samples in audio]
            decoded: list[Decoded] = []
            for start in range(0, len(audio), num_streams):
                batch = padded[start : start + num_streams]
                decoded += decode_simulated(model, searcher, batch, chunk_size, left_context_frames)
            whole[silence] = padded, decoded
        order = shuffle.sample(range(len(audio)), len(audio))
        for tally in tallies:
            padded, wanted = whole[tally.way.silence]
            found = wanted if tally.way is simulating else tally.way.decode(padded, order)
            if tally.way.projects:
                wanted = [_projected(model, decoded) for decoded in wanted]
            for utterance, want, have in zip(group, wanted, found):
                tally.add(utterance, want, have)
    return [tally.result() for tally in tallies]


class _Tally:
    """Counts what a way makes of one utterance after the other."""

    def __init__(self, way: Way, to_text: Callable[[list[int]], str], metric: str) -> None:
        self.way, self._to_text, self._metric = way, to_text, metric
        self._counts: list[Counts] = []
        self._same_text = self._empty = self._identical = 0
        self._deviation, self._different = 0.0, []

    def add(self, utterance: Utterance, want: Decoded, have: Decoded | str) -> None:
        to_text = self.way.to_text or self._to_text
        text = "" if isinstance(have, str) else to_text(have.tokens)
        self._counts.append(count_errors(utterance.reference, text, self._metric))
        self._same_text += text == self._to_text(want.tokens)
        self._empty += not text
        if isinstance(have, str) or have[:2] != want[:2] or have.frames.shape != want.frames.shape:
            if self.way.exact:
                self._different.append(utterance.key)
            return
        self._identical += 1
        if want.frames.numel():
            self._deviation = max(self._deviation, float((want.frames - have.frames).abs().max()))

    def result(self) -> Parity:
        return Parity(
            self.way.name,
            len(self._counts),
            self._identical,
            self._same_text,
            self._empty,
            total(self._counts),
            self._deviation,
            self._different,
        )


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


def make_ways(
    model: Transducer,
    searcher: Searcher,
    chunking: Chunking,
    source: ModelSource,
    search: Search,
    streams: Streams,
    compared: Compared,
    servers: ExitStack,
) -> list[Way]:
    """What the options ask to compare; UserError for what cannot run. ``servers`` ends the processes that were started."""
    setting = (model, searcher, chunking.chunk_size, chunking.left_context_frames, streams.num_decode_streams)
    ways = []
    if "torch" in compared.runtime:
        half = state_dtype(streams) or torch.float16
        ways.append(torch_way(*setting))
        about = f"chunk by chunk, state in {str(half).removeprefix('torch.')}"
        ways.append(torch_way(*setting, name=about, state_dtype=half, exact=False))
    exported = [runtime for runtime in compared.runtime if runtime != "torch"]
    for runtime, precision in itertools.product(exported, compared.precision):
        deployment = Deployment(runtime, compared.onnx_dir, precision)
        name = runtime_name(deployment)
        if runtime.startswith("sherpa-onnx"):
            directory = export_directory(model, source, deployment, *chunking)
            if runtime == "sherpa-onnx":
                recognizer = make_recognizer(directory, search, precision)
                texts = partial(transcribe, recognizer, num_streams=streams.num_decode_streams)
            else:
                server = SherpaServer(directory, search, chunking.chunk_size, streams.num_decode_streams, precision)
                texts = servers.enter_context(server).transcribe
            ways.append(sherpa_way(name, texts, chunking.chunk_size))
        else:
            made = make_runtime(model, deployment, *chunking, source)
            ways.append(torch_way(*setting, name=name, runtime=made, exact=precision == "float32"))
    return ways


def print_parity(
    source: ModelSource,
    chunks: Chunks,
    search: Search,
    streams: Streams,
    speech: Speech,
    parts: Sequence[str],
    max_utterances: int,
    compared: Compared = Compared(),  # noqa: B008, a frozen dataclass
) -> int:
    """Prints the table, a row per part, setting and way. Returns 1 if an utterance differs that must not, otherwise 0.

    ``max_utterances`` of a part; 0: all.
    """
    model, tokenizer, info = load_system(source, speech)
    corpus = find_corpus(speech.manifest_dir, speech.corpus)
    check_units(corpus, tokenizer)
    mode = speech.transcript_mode or info.transcript_mode
    searcher = searcher_for(model, search, tokenizer)
    different = 0
    with ExitStack() as servers:
        everything = [
            (chunking, make_ways(model, searcher, chunking, source, search, streams, compared, servers))
            for chunking in settings(model, chunks)
        ]
        print(f"{info.encoder}, {info.checkpoint}; {search.decoding_method}, {streams.num_decode_streams} streams\n")
        titles = "part,chunk,left context,way,utterances,identical,same text,max deviation"
        columns = [*titles.split(","), corpus.metric, "del", "ins", "sub", "empty"]
        print(f"| {' | '.join(columns)} |\n|---|---:|---:|---|{'---:|' * (len(columns) - 4)}")
        for part in corpus.chosen(parts):
            cuts = part_cuts(corpus, speech.manifest_dir, part, mode, tokenizer, Allowed(urls=speech.allow_urls))
            cuts = cuts[: max_utterances or None]
            for (chunk_size, left), ways in everything:
                utterances = (Utterance(cut.id, partial(cut_audio, cut), transcript(cut, mode)) for cut in cuts)
                rows = compare(
                    model,
                    searcher,
                    progress(utterances, len(cuts), f"{part}, chunk {chunk_size}"),
                    tokenizer.decode,
                    chunk_size,
                    left,
                    streams.num_decode_streams,
                    ways,
                    metric=corpus.metric,
                )
                for row in rows:
                    different += len(row.different)
                    print(_row(part, chunk_size, left, row), flush=True)
                    for key in row.different[:5]:
                        print(f"different: {part} {key}, chunk {chunk_size}, left {left}, {row.way}", file=sys.stderr)
    return 1 if different else 0


def _row(part: str, chunk_size: int, left: int, found: Parity) -> str:
    counts = found.counts
    shares = [100.0 * count / max(counts.ref, 1) for count in (counts.dels, counts.ins, counts.subs)]
    cells = [part, chunk_size, left, found.way, found.utterances, found.identical, found.same_text]
    cells += [f"{found.max_deviation:.1e}" if found.identical else "-", f"{found.rate:.2f}"]
    return f"| {' | '.join(map(str, [*cells, *(f'{share:.2f}' for share in shares), found.empty]))} |"
