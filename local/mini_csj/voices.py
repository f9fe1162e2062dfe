"""Speakers: one HMM voice or more, varied in pitch, rate, vocal-tract length, tilt, level, noise, room and microphone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from pyopenjtalk.htsengine import HTSEngine  # noqa: E402  (the import above keeps its notices quiet)

from . import acoustics
from .words import Word, labels_of, pyopenjtalk

NOTICE = """\
Everything in this directory was computed by local/make_mini_csj.py; nothing was recorded.

Speech (talks, babble): synthesized by Open JTalk, modified BSD license, as packaged in pyopenjtalk-plus, MIT license,
with
the HTS voice "Mei", copyright (c) 2009-2013 Nagoya Institute of Technology, Department of Computer Science, released
by the
MMDAgent Project Team under Creative Commons Attribution 3.0 (https://creativecommons.org/licenses/by/3.0/), and with
whatever voices were given by --voices, under their own terms.  The voice was changed in pitch, rate, formants and room.

Music and noise: public domain (CC0 1.0).
"""
BAND_LIMITED = 0.6  # of talks whose microphone hears a part of the spectrum only
LOUDEST = 0.98  # of full scale: a talk that would clip is turned down
PEAK = 32768.0  # the synthesizer's full scale


@dataclass(frozen=True)
class Speaker:
    """How one talk sounds.

    voice: path of an .htsvoice file, "" for the one in pyopenjtalk-plus; warp: formant scale, above 1 is a shorter
    vocal tract; half_tones: pitch against the voice; rate: speaking rate; tilt: spectral tilt; level_db: RMS of speech
    below full
    scale; snr_db: speech over stationary noise; noise_slope: dB per octave; reverberation: s; direct_db: direct over
    tail; band: Hz at which the microphone has lost 3 dB, below and above, or None.
    """

    voice: str
    warp: float
    half_tones: float
    rate: float
    tilt: float
    level_db: float
    snr_db: float
    noise_slope: float
    reverberation: float
    direct_db: float
    band: tuple[float, float] | None


def draw_speaker(rng: np.random.Generator, sex: str, voices: tuple[str, ...]) -> Speaker:
    """A speaker of sex "M" or "F".  Voices that --voices adds are drawn as often as the built-in one.

    Talks differ much and one talk does not change: the longer a recognizer listens, the better it can know the
    conditions.
    """
    male = sex == "M"
    low, high = float(rng.uniform(50.0, 300.0)), float(math.exp(rng.uniform(math.log(3400.0), math.log(8000.0))))
    return Speaker(
        voice=voices[int(rng.integers(len(voices)))],
        warp=float(rng.uniform(0.84, 0.95) if male else rng.uniform(0.95, 1.08)),
        half_tones=float(rng.uniform(-8.5, -4.5) if male else rng.uniform(-2.0, 2.5)),
        rate=float(rng.uniform(1.0, 1.35)),
        tilt=float(rng.uniform(-0.3, 0.4)),
        level_db=float(rng.uniform(-34.0, -16.0)),
        snr_db=float(rng.uniform(15.0, 40.0)),
        noise_slope=float(rng.uniform(0.0, 6.0)),
        reverberation=float(rng.uniform(0.10, 0.45)),
        direct_db=float(rng.uniform(4.0, 16.0)),
        band=(low, high) if rng.random() < BAND_LIMITED else None,
    )


@lru_cache(maxsize=4)
def _engine(voice: str) -> HTSEngine:
    return HTSEngine(voice.encode() if voice else pyopenjtalk.DEFAULT_HTS_VOICE)


def check_voice(path: Path) -> None:
    """ValueError if path is no voice that the synthesizer can load."""
    try:
        HTSEngine(str(path).encode())
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def say(words: list[Word], speaker: Speaker, rng: np.random.Generator) -> np.ndarray:
    """Speech of one utterance (T,) at 16 kHz without the silence around it, RMS 1, dry.

    The synthesizer's output is played warp times faster, which scales pitch and formants alike; pitch and rate are set
    beforehand so that only the formants keep the factor.
    """
    engine = _engine(speaker.voice)
    pitch = speaker.half_tones + rng.normal(0.0, 0.4)
    rate = speaker.rate * math.exp(rng.normal(0.0, 0.025))
    engine.set_speed(rate / speaker.warp)
    engine.add_half_tone(pitch - 12.0 * math.log2(speaker.warp))
    x = engine.synthesize(labels_of(words)) / PEAK
    source = engine.get_sampling_frequency() * speaker.warp
    x = np.pad(x, (0, acoustics.smooth_size(len(x)) - len(x)))
    x = acoustics.resample_fft(x, int(round(len(x) * acoustics.RATE / source)))
    start, end = acoustics.speech_span(x)
    x = acoustics.tilt(x[start:end], speaker.tilt)
    return x / acoustics.level(x)


def in_room(dry: np.ndarray, speaker: Speaker, rng: np.random.Generator) -> np.ndarray:
    """A whole talk of dry speech (T,), RMS 1 while somebody speaks, heard in the speaker's room with its noise."""
    response = acoustics.room_response(rng, speaker.reverberation, speaker.direct_db)
    wet = acoustics.convolve(dry, response)
    noise = acoustics.coloured_noise(rng, len(dry), speaker.noise_slope)
    mixed = wet + noise * 10.0 ** (-speaker.snr_db / 20.0)
    if speaker.band:
        mixed = acoustics.band_limit(mixed, *speaker.band)
    return mixed * min(10.0 ** (speaker.level_db / 20.0), LOUDEST / float(np.abs(mixed).max()))
