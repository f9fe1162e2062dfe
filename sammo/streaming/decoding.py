"""What streaming_decode.py does: test sets decoded chunk by chunk, as many streams at a time as wished."""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path
from typing import IO, Any, Callable, Iterable, Iterator, NamedTuple, Sequence

import torch
from lhotse.cut import Cut
from torch import Tensor

from sammo.corpora import CORPORA, Corpus, find_corpus
from sammo.data.datamodule import check_units
from sammo.data.features import SAMPLING_RATE, load_audio
from sammo.data.manifests import ManifestCuts, scan_manifests
from sammo.data.sources import FILES, Allowed
from sammo.data.tokens import Tokenizer, load_tokenizer
from sammo.data.transcripts import transcript
from sammo.decoding import add_model_arguments, default_directory, load_model_for, names
from sammo.errors import UserError
from sammo.files import atomic_write
from sammo.options import integers, parse_bool
from sammo.progress import progress
from sammo.scoring import has_results, result_name, write_results
from sammo.streaming.options import (
    STATE_DTYPES,
    add_search_arguments,
    decode_setting,
    searcher_for,
    settings,
)
from sammo.streaming.recognizer import Stream, StreamingRecognizer, recognize

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
    scan = scan_manifests(part, [path], mode, tokenizer, keep_long_texts=True, allowed=allowed)
    return sorted(ManifestCuts([path], scan.left_out, allowed), key=lambda cut: -cut.duration)


def cut_audio(cut: Cut) -> Tensor:
    """Samples (S,) of ``cut``, the mean of its channels; UserError where they cannot be read."""
    if cut.sampling_rate != SAMPLING_RATE:
        raise UserError(f"cut {cut.id} has {cut.sampling_rate} Hz, not {SAMPLING_RATE}; resample it in the manifest")
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


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Which utterances, decode.py's names."""
    group = parser.add_argument_group("data")
    group.add_argument("--manifest-dir", type=Path, default=Path("data/fbank"), help="(default: data/fbank)")
    group.add_argument("--corpus", help=f"{', '.join(CORPORA)} (default: the one that --manifest-dir was prepared from)")
    group.add_argument("--parts", "--test-sets", type=names, default=["tests"], help="(default: tests, all test parts)")
    group.add_argument(
        "--allow-urls", type=parse_bool, default=False, help="Read audio from URLs that manifests name (default: false)."
    )
    group.add_argument("--transcript-mode", help="Transcript to score against (default: the one trained on).")
    group.add_argument(
        "--num-decode-streams", type=int, default=16, help="Utterances decoded at the same time (default: 16)."
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of streaming_decode.py."""
    add_model_arguments(parser)
    add_data_arguments(parser)
    add_search_arguments(parser)
    parser.add_argument("--chunk-size", type=integers, default=(32,), help="Frames of 20 ms: 16,32,64,128 (default: 32).")
    parser.add_argument(
        "--left-context-frames",
        type=integers,
        default=(128,),
        help="Frames of 20 ms of Zipformer's attention cache: 64,128,256 (default: 128).",
    )
    parser.add_argument("--res-dir", type=Path, help="Where results go (default: EXP_DIR/METHOD).")
    parser.add_argument("--force", action="store_true", help="Decode again what was decoded from the same weights.")
    parser.add_argument("--partial-results", action="store_true", help="Write partials-*.txt: the text after each chunk.")


def run(args: argparse.Namespace) -> int:
    """Decodes every part at every setting, those that have results left alone; 1 where an utterance was given up."""
    tokenizer = load_tokenizer(args.lang)
    model, info = load_model_for(args, tokenizer)
    res_dir = args.res_dir or default_directory(args)
    corpus = find_corpus(args.manifest_dir, args.corpus)
    check_units(corpus, tokenizer)
    mode = args.transcript_mode or info.transcript_mode
    failed = 0
    for chunking in settings(model, args.chunk_size, args.left_context_frames):
        setting = decode_setting(args, model, info, chunking)
        for part in corpus.chosen(args.parts):
            if has_results(res_dir, setting, part, corpus.metric) and not args.force:
                logging.info(f"{part}: decoded before at {setting.suffix} (--force decodes again)")
                continue
            recognizer = StreamingRecognizer(
                model, searcher_for(args, model), *chunking, STATE_DTYPES[args.state_dtype]
            )
            cuts = part_cuts(corpus, args.manifest_dir, part, mode, tokenizer, Allowed(urls=args.allow_urls))
            started = time.perf_counter()
            if args.partial_results:
                res_dir.mkdir(parents=True, exist_ok=True)
                with atomic_write(res_dir / f"partials-{result_name(res_dir, setting, part)}.txt") as file:
                    results = _decode_part(recognizer, cuts, tokenizer, mode, part, args.num_decode_streams, file)
            else:
                results = _decode_part(recognizer, cuts, tokenizer, mode, part, args.num_decode_streams)
            elapsed = time.perf_counter() - started
            failed += sum(result.error is not None for result in results)
            _report(res_dir, setting, part, corpus, results, elapsed)
    if failed:
        logging.error(
            f"{failed} utterance(s) were given up; they are scored with what they gave until then, their parts are "
            "marked as incomplete and decoded again by the next run"
        )
    return 1 if failed else 0


def _decode_part(
    recognizer: StreamingRecognizer,
    cuts: Sequence[Cut],
    tokenizer: Tokenizer,
    mode: str,
    part: str,
    num_streams: int,
    partials: IO | None = None,
) -> list[StreamedUtterance]:
    def write_partial(stream: Stream) -> None:
        text = tokenizer.decode(stream.result.tokens)
        print(f"{stream.key.id}\t{stream.duration:.2f}\t{text}", file=partials)

    on_partial = None if partials is None else write_partial
    running = stream_cuts(recognizer, cuts, tokenizer, mode, num_streams, on_partial)
    return list(progress(running, total=len(cuts), desc=part))


def _report(
    res_dir: Path, setting: Any, part: str, corpus: Corpus, results: list[StreamedUtterance], elapsed: float
) -> None:
    """Writes the result files, delays among them, and logs one line."""
    delays = delay_summary([delay for result in results for delay in result.delays])
    audio = sum(result.duration for result in results)
    extra = {"delay_seconds": delays, "audio_seconds": audio, "wall_seconds": elapsed}
    scored = [(result.cut_id, result.reference, result.hypothesis, result.timestamps) for result in results]
    failed = {result.cut_id: result.error for result in results if result.error is not None}
    rates = write_results(res_dir, setting, part, scored, extra, corpus.metric, corpus.name, failed)
    line = f"{part}, {setting.suffix}: {', '.join(map(str, rates))}"
    if delays["tokens"]:
        line += f", delay {delays['mean']:.2f} s (median {delays['p50']:.2f}, 90 % {delays['p90']:.2f})"
    logging.info(f"{line}, {audio / max(elapsed, 1e-9):.1f} x real time")
