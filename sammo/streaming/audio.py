"""Audio files as 16 kHz mono, read piece by piece."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Iterator

import soundfile
import torch
from torch import Tensor

from sammo.data.features import SAMPLING_RATE
from sammo.data.whole import shortfall
from sammo.errors import UserError
from sammo.streaming.resample import OnlineResampler

# Clipped and slightly hot float audio passes; integers stored as floats (up to 32768) do not.
MAX_AMPLITUDE = 10.0
# The formats of libsndfile that say how long they are, or where they end: of the others nobody can tell whether
# they are whole. WAVEX and RF64 are kinds of WAV, NIST is SPHERE.
FORMATS = ("WAV", "WAVEX", "RF64", "AIFF", "AU", "W64", "CAF", "NIST", "FLAC", "OGG", "MP3")
MIN_RATE, MAX_RATE = 1000, 768_000  # Hz; outside of it the header is wrong


def stream_audio(
    path: str | Path, channel: int | None = None, seconds: float = 1.0, allow_truncated: bool = False
) -> Iterator[Tensor]:
    """Reads a file in pieces of about ``seconds`` and yields float32 samples (S,) at 16 kHz in [-1, 1].

    WAV and AIFF of 8, 16, 24, 32 bits and float, FLAC, Ogg Vorbis and Opus, MP3 and the others in FORMATS. Memory
    does not grow with the file. Other sampling rates are resampled.

    Args:
      path: the file.
      channel: which channel, from 0; None takes the mean of all.
      seconds: length of a piece.
      allow_truncated: of a file that ends before its header says, read what is there and log a warning.

    Raises:
      UserError: a file that is missing, unreadable, empty, damaged or cut short, a channel that it does not have, samples
        that are not numbers or far outside of [-1, 1].
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise UserError(f"no audio file {path}")
    try:
        # As bytes: a name need not be UTF-8. A TypeError is libsndfile's way to say that RAW has no header.
        file = soundfile.SoundFile(os.fsencode(path))  # pyright: ignore[reportArgumentType], which it takes
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        raise UserError(
            f"{path} is not audio that can be read ({_reason(error)}); convert it to WAV or FLAC"
        ) from error
    with file:
        if not MIN_RATE <= file.samplerate <= MAX_RATE:
            raise UserError(f"{path} claims a sampling rate of {file.samplerate} Hz; its header is damaged")
        if channel is not None and not 0 <= channel < file.channels:
            raise UserError(
                f"{path} has {file.channels} channel(s), so there is no channel {channel} (they count from 0)"
            )
        if file.format not in FORMATS:
            raise UserError(f"{path} is {file.format}, which cannot tell if it is whole; convert it to WAV or FLAC")
        lacking = shortfall(path)
        if lacking and not allow_truncated:
            raise UserError(f"{path} is cut short, {lacking}; copy it again, or pass --allow-truncated true")
        resampler = OnlineResampler(file.samplerate, SAMPLING_RATE)
        block = max(1, round(seconds * file.samplerate))
        position = 0
        while True:
            try:
                data = file.read(block, dtype="float32", always_2d=True)
            except (soundfile.SoundFileError, RuntimeError) as error:
                at = position / file.samplerate
                if allow_truncated and position:
                    lacking = lacking or f"it is damaged after {at:.2f} s"
                    break
                raise UserError(f"{path} is damaged after {at:.2f} s ({_reason(error)}); copy it again") from error
            if not len(data):
                break
            samples = torch.from_numpy(data)
            samples = samples.mean(1) if channel is None else samples[:, channel]
            problem = check_samples(samples)
            if problem:
                raise UserError(f"{path}, within {seconds:g} s after {position / file.samplerate:.2f} s: {problem}")
            position += len(data)
            yield resampler.accept(samples)
        if position == 0:
            raise UserError(f"{path} holds no audio")
        # Ogg and FLAC know their samples; the length of an MP3 is an estimate.
        if position < len(file) and file.format in ("OGG", "FLAC") and not lacking:
            whole = len(file) / file.samplerate
            lacking = f"{whole - position / file.samplerate:.2f} of {whole:.2f} s are missing"
            if not allow_truncated:
                raise UserError(f"{path} is cut short or damaged, {lacking}; copy it again, or --allow-truncated true")
        if lacking:
            logging.warning(f"{path} is cut short, {lacking}: {position / file.samplerate:.2f} s are used")
        yield resampler.finish()


def read_audio(path: str | Path, channel: int | None = None) -> Tensor:
    """The whole file: samples (S,), otherwise as :func:`stream_audio`."""
    return torch.cat(list(stream_audio(path, channel)))


def check_samples(samples: Tensor) -> str | None:
    """What is wrong with ``samples`` (S,), or None: numbers only, within the range of audio."""
    if not samples.numel():
        return None
    peak = float(samples.abs().max())
    if peak <= MAX_AMPLITUDE:
        return None
    bad = int((~samples.isfinite()).sum())
    if bad:
        return f"{bad} sample(s) are NaN or infinite; repair the recording"
    return f"samples reach {peak:g}, but audio lies in [-1, 1]; scale it down"


def _reason(error: Exception) -> str:
    """libsndfile's own words, without the path that the message names already."""
    return getattr(error, "error_string", str(error)).strip().rstrip(".")
