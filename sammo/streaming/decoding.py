"""What streaming_decode.py does: test sets decoded chunk by chunk, as many streams at a time as wished."""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, NamedTuple, Sequence

import torch
from lhotse.cut import Cut
from torch import Tensor

from sammo.data.datamodule import TEST_PARTS
from sammo.data.features import SAMPLING_RATE
from sammo.data.manifests import ManifestCuts, scan_manifests
from sammo.data.tokens import Tokenizer
from sammo.data.transcripts import transcript
from sammo.errors import UserError
from sammo.streaming.recognizer import Stream, StreamingRecognizer, recognize

STATE_DTYPES = {"float32": None, "float16": torch.float16, "bfloat16": torch.bfloat16}
PIECE_SECONDS = 0.1  # audio handed over at a time


class StreamedUtterance(NamedTuple):
    """One utterance decoded as a stream."""

    cut_id: str
    reference: str
    hypothesis: str
    timestamps: list[float]  # seconds, one a token
    delays: list[float]  # seconds, one a token
    error: str | None


def integers(text: str) -> list[int]:
    """argparse type: "16,32" -> [16, 32]."""
    try:
        return [int(item) for item in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected integers separated by commas, got {text!r}") from None


def test_cuts(manifest_dir: Path, part: str, mode: str, tokenizer: Tokenizer) -> Iterable[Cut]:
    """The cuts of ``part`` that decode.py decodes, too; UserError where there are none."""
    path = Path(manifest_dir) / f"csj_cuts_{part}.jsonl.gz"
    scan = scan_manifests(part, [path], mode, tokenizer, keep_long_texts=True)
    return ManifestCuts([path], scan.left_out)


def cut_audio(cut: Cut) -> Tensor:
    """Samples (S,) of ``cut``, the mean of its channels; UserError where they cannot be read."""
    try:
        samples = torch.from_numpy(cut.load_audio())
    except Exception as error:  # lhotse's back-ends have no common error
        raise UserError(f"the audio of cut {cut.id} cannot be read ({' '.join(str(error).split())})") from error
    if cut.sampling_rate != SAMPLING_RATE:
        raise UserError(f"cut {cut.id} has {cut.sampling_rate} Hz, not {SAMPLING_RATE}; resample it in the manifest")
    return samples.mean(0)


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
