"""Audio that has no file: raw samples from a pipe, and the microphone."""

from __future__ import annotations

import logging
import queue
from typing import Any, BinaryIO, Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from sammo.data.features import SAMPLING_RATE
from sammo.errors import UserError
from sammo.streaming.audio import MAX_RATE, MIN_RATE
from sammo.streaming.resample import OnlineResampler

PIECE = 0.1  # seconds that are handed on at a time
PCM = {"s16le": ("<i2", 1 / 32768), "f32le": ("<f4", 1.0)}  # names of ffmpeg: type, full scale


def raw_audio(file: BinaryIO, rate: int, form: str, stopped: Callable[[], bool]) -> Iterator[Tensor]:
    """Mono samples (S,) at 16 kHz from ``file``, as they arrive, until its end or ``stopped()``.

    Args:
      file: of bytes without a header.
      rate: its sampling rate in Hz; others than 16 kHz are resampled.
      form: a name in PCM.

    Raises:
      UserError: an impossible rate, or bytes that begin as a file with a header does.
    """
    if not MIN_RATE <= rate <= MAX_RATE:
        raise UserError(f"--sampling-rate must be {MIN_RATE} to {MAX_RATE}, got {rate}")
    dtype, scale = PCM[form]
    width = np.dtype(dtype).itemsize
    resampler = OnlineResampler(rate, SAMPLING_RATE)
    size = max(1, round(PIECE * rate)) * width
    read: Callable[[int], bytes] = getattr(file, "read1", None) or file.read  # what is there, without waiting for more
    held, started = b"", False
    while not stopped() and (data := read(size)):
        held += data
        if not started and len(held) >= 4:
            if held[:4] in (b"RIFF", b"fLaC", b"OggS", b"ID3\x03", b"ID3\x04", b"FORM", b"NIST"):
                raise UserError("standard input is an audio file, and raw samples were expected: pass its name instead")
            started = True
        whole = len(held) // width * width
        if started and whole:
            samples = np.frombuffer(held[:whole], dtype=dtype).astype(np.float32) * np.float32(scale)
            held = held[whole:]
            yield resampler.accept(torch.from_numpy(samples))
    if held:
        logging.warning(f"standard input ended within a sample: {len(held)} byte(s) of {width} were left out")
    yield resampler.finish()


def microphone(device: str | None, stopped: Callable[[], bool]) -> Iterator[Tensor]:
    """Mono samples (S,) at 16 kHz of a microphone, until ``stopped()``.

    device: its number, or a part of its name; None: the system's choice.

    Raises:
      UserError: the library or the microphone is missing, or another program has it.
    """
    try:
        import sounddevice
    except ImportError as error:
        raise UserError("the microphone needs the package sounddevice: pip install sounddevice") from error
    except OSError as error:
        reason = f"{error}; on Debian and Ubuntu: apt-get install libportaudio2"
        raise UserError(f"the microphone needs the library PortAudio ({reason})") from error
    blocks: queue.SimpleQueue[np.ndarray] = queue.SimpleQueue()
    lost = 0

    def heard(data: np.ndarray, frames: int, time: Any, status: Any) -> None:
        nonlocal lost
        lost += bool(status.input_overflow)
        blocks.put(data[:, 0].copy())

    name: int | str | None = int(device) if device is not None and device.isdecimal() else device
    try:
        rate = _rate(sounddevice, name)
        stream = sounddevice.InputStream(
            samplerate=rate, blocksize=round(PIECE * rate), device=name, channels=1, dtype="float32", callback=heard
        )
        with stream:
            resampler = OnlineResampler(rate, SAMPLING_RATE)
            while not stopped():
                try:
                    yield resampler.accept(torch.from_numpy(blocks.get(timeout=PIECE)))
                except queue.Empty:
                    continue
    except (sounddevice.PortAudioError, ValueError) as error:
        found = "the default microphone" if device is None else f"the microphone {device!r}"
        raise UserError(
            f"{found} cannot be used ({_line(error)}); python -m sounddevice lists what is there"
        ) from error
    if lost:
        logging.warning(f"audio was lost {lost} time(s): this machine does not keep up with the microphone")
    yield resampler.finish()


def _rate(sounddevice: Any, device: int | str | None) -> int:
    """16 kHz where the device has it, otherwise its own."""
    try:
        sounddevice.check_input_settings(device=device, channels=1, dtype="float32", samplerate=SAMPLING_RATE)
        return SAMPLING_RATE
    except sounddevice.PortAudioError:
        return round(sounddevice.query_devices(device, "input")["default_samplerate"])


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
