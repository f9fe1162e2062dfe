"""Exported models in sherpa-onnx itself: its features, its streams, its searches."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Sequence

import torch
from torch import Tensor

from sammo import geometry
from sammo.data.features import SAMPLING_RATE
from sammo.errors import UserError
from sammo.export.deployed import AGAIN, NAMES, TOKENS, file_name, need
from sammo.options import Search

if TYPE_CHECKING:
    from sammo.streaming.parity import Way


def make_recognizer(directory: Path, search: Search, precision: str = "float32") -> Any:
    """sherpa-onnx's recognizer of a directory that ``sammo export`` wrote; UserError where it cannot be."""
    need("sherpa_onnx")
    import sherpa_onnx

    if precision == "bfloat16":
        raise UserError("sherpa-onnx has no bfloat16 on CPUs")
    if search.hotwords is not None or search.lm is not None:
        raise UserError("sherpa-onnx has hotwords and language models of its own: compare without --hotwords and --lm")
    paths = {name: Path(directory) / file_name(name, precision) for name in NAMES} | {
        "tokens": Path(directory) / TOKENS
    }
    for path in paths.values():
        if not path.is_file():  # it would end the process
            raise UserError(f"{path.parent} lacks {path.name}; {AGAIN}")
    files: dict[str, Any] = {name: str(path) for name, path in paths.items()}
    return sherpa_onnx.OnlineRecognizer.from_transducer(
        **files,
        num_threads=torch.get_num_threads(),
        decoding_method=search.decoding_method,
        max_active_paths=search.beam_size,
        blank_penalty=search.blank_penalty,
        temperature_scale=search.temperature,
    )


def silence_after(chunk_size: int) -> int:
    """Samples of silence to append to an utterance: Sammo's own tail, and a window more, because sherpa-onnx computes
    whole windows only."""
    frames = geometry.window(chunk_size) + geometry.TAIL_PADDING
    return frames * SAMPLING_RATE // int(geometry.FEATURE_RATE)


def transcribe(recognizer: Any, audio: Sequence[Tensor]) -> list[str]:
    """The texts of utterances (S,) at 16 kHz that end with silence, decoded as one batch of streams."""
    streams = []
    for samples in audio:
        stream = recognizer.create_stream()
        stream.accept_waveform(SAMPLING_RATE, samples.numpy())
        stream.input_finished()
        streams.append(stream)
    while ready := [stream for stream in streams if recognizer.is_ready(stream)]:
        recognizer.decode_streams(ready)
    return [recognizer.get_result(stream) for stream in streams]


def sherpa_way(directory: Path, search: Search, chunk_size: int, num_streams: int, precision: str, name: str) -> Way:
    """For :func:`sammo.streaming.parity.compare`; only its texts are compared."""
    from sammo.streaming.parity import Decoded, Way

    recognizer = make_recognizer(directory, search, precision)

    def decode(audio: Sequence[Tensor], order: Sequence[int]) -> list[Any]:
        texts: dict[int, str] = {}
        for start in range(0, len(order), num_streams):
            batch = order[start : start + num_streams]
            texts.update(zip(batch, transcribe(recognizer, [audio[index] for index in batch])))
        # Texts take the place of tokens.
        return [Decoded(list(texts[index]), [], torch.zeros(0)) for index in range(len(audio))]

    return Way(name, decode, exact=False, to_text="".join, silence=silence_after(chunk_size))
