"""Sound without speech, for training: noise with an empty text in place of utterances, and silence before them.

A transducer that has only ever heard utterances says something into noise, too: nothing has taught it not to.
"""

from __future__ import annotations

import math
from typing import Sequence

import numpy as np
import torch
from lhotse import Fbank
from lhotse.cut import Cut
from torch import Tensor

from sammo.data.features import SAMPLING_RATE, collate_on_the_fly, collate_precomputed, make_extractor
from sammo.data.frames import FRAME_SHIFT, NUM_MEL_BINS, num_frames
from sammo.geometry import PADDING_VALUE

HOP = round(FRAME_SHIFT * SAMPLING_RATE)  # samples a frame
LEAST = 10  # frames that are made at a time; fewer samples have no features
LEVELS = (-80.0, -15.0)  # dBFS of a room, root mean square
LEADING_LEVELS = (-80.0, -50.0)  # before an utterance, whose own room is about as quiet
GAINS = (-30.0, 0.0)  # dB, of recorded noise
BABBLE = 0.4  # of the sounds without speech
KINDS = {"silence": 0.1, "noise": 0.3, "hum": 0.2, "music": 0.4}  # of those made here; music needs the most
VOICES = (6, 16)  # that talk at a time in babble; of fewer, somebody can be made out
NEARER = 6.0  # dB between the nearest and the farthest of them
BABBLE_GAINS = (-40.0, 6.0)  # dB, of babble over one speaker
LINES = 0.5 + 0.5 * np.exp(np.linspace(0, 2.5, NUM_MEL_BINS))  # spectral lines of a 25 ms window in each band
SPEECH = "speech"  # how the ids of MUSAN's talks begin; who learns that they have no text learns not to listen


class Quiet:
    """Replaces utterances by noise with an empty text, and puts silence before the others.

    Args:
      share: the probability of each utterance to be replaced, BABBLE of the time by :func:`babble` of its batch.
      leading: most seconds of silence before an utterance, uniform from 0.
      noise: recorded noise, half of the sounds that are not babble; MUSAN's talks among it are left out.
      extractor: computes the recorded noise's features from its audio; None: stored ones are read.
    """

    def __init__(self, share: float, leading: float, noise: Sequence[Cut] = (), extractor: Fbank | None = None) -> None:
        self.share, self.leading = share, leading
        self.noise = [cut for cut in noise if not cut.id.startswith(SPEECH)]
        self._extractor = extractor
        self._own = make_extractor()

    def __call__(self, features: Tensor, lengths: Tensor, seed: int) -> tuple[Tensor, Tensor, list[bool]]:
        """features (N, T, 80), lengths (N,) -> features (N, T', 80), lengths (N,), and which utterances have been replaced;
        a function of the arguments."""
        draw = np.random.default_rng([seed, 1])
        replaced = (draw.random(len(lengths)) < self.share).tolist()
        leads = [0 if gone else num_frames(self.leading * draw.random()) for gone in replaced]
        longer = lengths + torch.tensor(leads)
        found = features.new_full((len(lengths), int(longer.max()), features.size(2)), PADDING_VALUE)
        voices = [row[:length] for row, length in zip(features, lengths.tolist())]
        for row, old, length, lead, gone in zip(found, features, lengths.tolist(), leads, replaced):
            if gone:
                row[:length] = self._without_speech(length, voices, draw)
            else:
                if lead:
                    row[:lead] = self._synthetic(lead, LEADING_LEVELS, draw)
                rest = old[: len(row) - lead]  # with the noise that fills it up
                row[lead : lead + len(rest)] = rest
        return found, longer, replaced

    def _without_speech(self, frames: int, voices: Sequence[Tensor], draw: np.random.Generator) -> Tensor:
        if draw.random() < BABBLE:
            return babble(frames, voices, draw)
        if self.noise and draw.random() < 0.5:
            return self._recorded(frames, draw)
        return self._synthetic(frames, LEVELS, draw)

    def _recorded(self, frames: int, draw: np.random.Generator) -> Tensor:
        """(frames, 80) of one of the noises, from somewhere in it and as often as it takes, at another level."""
        cut = self.noise[int(draw.integers(len(self.noise)))]
        found, _ = collate_precomputed([cut]) if self._extractor is None else collate_on_the_fly([cut], self._extractor)
        sound = found[0].roll(int(draw.integers(found.size(1))), 0).repeat(frames // found.size(1) + 1, 1)[:frames]
        return (sound + draw.uniform(*GAINS) * math.log(10) / 10).clamp(min=PADDING_VALUE)

    def _synthetic(self, frames: int, levels: tuple[float, float], draw: np.random.Generator) -> Tensor:
        """(frames, 80) of digital silence, or of noise between white and brown, alone or behind the mains' hum or music."""
        level, power, mains = draw.uniform(*levels), draw.uniform(0.0, 2.0), draw.choice((50.0, 60.0))
        kind = draw.choice(list(KINDS), p=list(KINDS.values()))
        if kind == "silence":
            return torch.full((frames, NUM_MEL_BINS), PADDING_VALUE)
        samples = max(frames, LEAST) * HOP
        frequency = np.maximum(np.fft.rfftfreq(samples, 1 / SAMPLING_RATE), 20.0)
        sound = np.fft.irfft(np.fft.rfft(draw.standard_normal(samples)) * frequency ** (-power / 2), samples)
        sound /= np.sqrt(np.mean(sound**2))
        if kind == "hum":
            time = np.arange(samples) / SAMPLING_RATE
            sound = 0.1 * sound + np.sum([np.sin(2 * np.pi * mains * k * time + k) / k for k in range(1, 11)], axis=0)
        elif kind == "music":
            music = notes(samples, draw)
            sound = 0.01 * sound + music / max(float(np.sqrt(np.mean(music**2))), 1e-3)
        scaled = (10 ** (level / 20) * sound).clip(-1, 1).astype(np.float32)
        return torch.from_numpy(self._own.extract(scaled, SAMPLING_RATE)[:frames])


def notes(samples: int, draw: np.random.Generator) -> np.ndarray:
    """(samples,) of plucked notes, 1 to 8 a second, of any pitch from 55 Hz to 1.2 kHz, five harmonics each."""
    sound = np.zeros(samples + SAMPLING_RATE)
    time = np.arange(SAMPLING_RATE) / SAMPLING_RATE
    slope = draw.uniform(0.5, 2.5)
    for _ in range(math.ceil(samples / SAMPLING_RATE * draw.uniform(1, 8))):
        pitch, start = 55 * 2 ** draw.uniform(0, 4.5), draw.integers(samples)
        wave = np.sum([np.sin(2 * np.pi * pitch * k * time) / k**slope for k in range(1, 6)], axis=0)
        sound[start : start + len(time)] += draw.uniform(0.3, 1) * wave * np.exp(-time / draw.uniform(0.05, 0.5))
    return sound[:samples]


def babble(frames: int, voices: Sequence[Tensor], draw: np.random.Generator) -> Tensor:
    """(frames, 80) of many at a time: each one of ``voices`` (T, 80), from somewhere in it and as often as it takes.

    Their powers p in a band add to P with the interference of phases that know nothing of each other: mean P and
    variance (P^2 - sum p^2) / m, as the power of a sum has it, m the band's width in spectral lines that differ.
    """
    total, squares = torch.zeros(frames, NUM_MEL_BINS), torch.zeros(frames, NUM_MEL_BINS)
    for _ in range(int(draw.integers(VOICES[0], VOICES[1] + 1))):
        voice = voices[int(draw.integers(len(voices)))].exp()
        voice = voice.roll(int(draw.integers(len(voice))), 0).repeat(frames // len(voice) + 1, 1)[:frames]
        power = voice * 10 ** (draw.uniform(-NEARER, 0.0) / 10)
        total += power
        squares += power.square()
    phases = torch.from_numpy(draw.gamma(LINES, 1 / LINES, total.shape).astype(np.float32)) - 1
    power = total + (total.square() - squares).clamp(min=0).sqrt() * phases
    speaker = torch.cat(list(voices)).exp().mean()
    gain = 10 ** (draw.uniform(*BABBLE_GAINS) / 10)
    return (power * (gain * speaker / power.mean())).log().clamp(min=PADDING_VALUE)
