"""Samples that clients send, as the model takes them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sammo.data.features import SAMPLING_RATE
from sammo.errors import UserError
from sammo.serve.answers import shown
from sammo.streaming.audio import MAX_RATE, MIN_RATE
from sammo.streaming.live import PCM
from sammo.streaming.resample import OnlineResampler


class PcmDecoder:
    """Bytes of one channel, cut anywhere, to samples (S,) float32 at 16 kHz.

    Args:
      rate: Hz of what comes.
      form: "s16le" or "f32le".

    Raises:
      UserError: an impossible rate or form.
    """

    def __init__(self, rate: int = SAMPLING_RATE, form: str = "s16le") -> None:
        if isinstance(rate, bool) or not isinstance(rate, int) or not MIN_RATE <= rate <= MAX_RATE:
            raise UserError(f"sample_rate must be {MIN_RATE} to {MAX_RATE} Hz, got {shown(rate)}")
        if not isinstance(form, str) or form not in PCM:
            raise UserError(f"format must be {' or '.join(PCM)}, got {shown(form)}")
        dtype, self._scale = PCM[form]
        self._dtype = np.dtype(dtype)
        self._resampler = OnlineResampler(rate, SAMPLING_RATE)
        self._held = b""

    def accept(self, data: bytes) -> Tensor:
        """Samples (S,) that ``data`` completes."""
        data = self._held + data
        whole = len(data) // self._dtype.itemsize * self._dtype.itemsize
        self._held = data[whole:]
        samples = np.frombuffer(data[:whole], dtype=self._dtype).astype(np.float32) * np.float32(self._scale)
        return self._resampler.accept(torch.from_numpy(samples))

    def finish(self) -> Tensor:
        """The last samples (S,), after the last ``data``."""
        return self._resampler.finish()
