"""Exported models in sherpa-onnx itself: its features, its streams, its searches."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Sequence

import torch
from torch import Tensor

from sammo import geometry
from sammo.data.features import SAMPLING_RATE
from sammo.errors import UserError
from sammo.export.deployed import AGAIN, NAMES, TOKENS, file_name, need
from sammo.options import Search

if TYPE_CHECKING:
    from sammo.streaming.parity import Way


def model_files(directory: Path, search: Search, precision: str = "float32") -> dict[str, Path]:
    """encoder, decoder, joiner and tokens of a directory that ``sammo export`` wrote, by sherpa-onnx's names of its options;
    UserError where sherpa-onnx cannot run them as ``search`` asks."""
    if precision == "bfloat16":
        raise UserError("sherpa-onnx has no bfloat16 on CPUs")
    if search.hotwords is not None or search.lm is not None:
        raise UserError("sherpa-onnx has hotwords and language models of its own: compare without --hotwords and --lm")
    files = {name: Path(directory) / file_name(name, precision) for name in NAMES} | {
        "tokens": Path(directory) / TOKENS
    }
    for path in files.values():
        if not path.is_file():  # it would end the process
            raise UserError(f"{path.parent} lacks {path.name}; {AGAIN}")
    return files


def make_recognizer(directory: Path, search: Search, precision: str = "float32") -> Any:
    """sherpa-onnx's recognizer of a directory that ``sammo export`` wrote; UserError where it cannot be."""
    need("sherpa_onnx")
    import sherpa_onnx

    files: dict[str, Any] = {name: str(path) for name, path in model_files(directory, search, precision).items()}
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


def transcribe(recognizer: Any, audio: Sequence[Tensor], num_streams: int) -> list[str]:
    """The texts of utterances (S,) at 16 kHz that end with silence, in batches of ``num_streams`` streams."""
    texts = []
    for start in range(0, len(audio), num_streams):
        streams = []
        for samples in audio[start : start + num_streams]:
            stream = recognizer.create_stream()
            stream.accept_waveform(SAMPLING_RATE, samples.numpy())
            stream.input_finished()
            streams.append(stream)
        while ready := [stream for stream in streams if recognizer.is_ready(stream)]:
            recognizer.decode_streams(ready)
        texts += [recognizer.get_result(stream) for stream in streams]
    return texts


def sherpa_way(name: str, transcribe: Callable[[Sequence[Tensor]], list[str]], chunk_size: int) -> Way:
    """For :func:`sammo.streaming.parity.compare`; only its texts are compared.

    Args:
      transcribe: utterances (S,) at 16 kHz that end with :func:`silence_after` -> the text of each.
    """
    from sammo.streaming.parity import Decoded, Way

    def decode(audio: Sequence[Tensor], order: Sequence[int]) -> list[Any]:
        texts = dict(zip(order, transcribe([audio[index] for index in order])))
        # Texts take the place of tokens.
        return [Decoded(list(texts[index]), [], torch.zeros(0)) for index in range(len(audio))]

    return Way(name, decode, exact=False, to_text="".join, silence=silence_after(chunk_size))
