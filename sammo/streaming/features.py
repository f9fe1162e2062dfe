"""Filter-bank features of audio that arrives piece by piece, equal to the offline ones.

lhotse centers its 25 ms windows on a 10 ms grid and reflects the audio at both ends (``snip_edges=False``).
A stream therefore knows the first frames only when 280 samples are there, and the last ones only at its end,
where the reflection of the last samples completes them. lhotse's own ``online_inference`` does the middle; this
module adds the two edges, the buffering, and a result for audio too short for the reflection.
"""

from __future__ import annotations

import functools

import torch
from lhotse import Fbank
from torch import Tensor

from sammo.data.features import NUM_MEL_BINS, make_extractor

WINDOW = 400  # samples
SHIFT = 160  # samples
LEFT_EDGE = (WINDOW - SHIFT) // 2  # samples reflected before the first one


@functools.cache
def make_fbank(device: str = "cpu") -> Fbank:
    """The recipe's own extractor, one for all the streams on ``device``."""
    extractor = make_extractor()
    extractor.to(device)
    return extractor


def num_frames(num_samples: int) -> int:
    """Frames that lhotse computes from ``num_samples`` samples."""
    return (num_samples + SHIFT // 2) // SHIFT


def samples_for_frames(frames: int) -> int:
    """Samples that must have arrived before frame ``frames - 1`` can be computed (0 for no frames)."""
    return (frames - 1) * SHIFT + WINDOW - LEFT_EDGE if frames > 0 else 0


class OnlineFbank:
    """Features of one stream of 16 kHz audio.

    Whatever the sizes of the pieces, ``accept`` and ``finish`` together return the frames of
    ``lhotse.Fbank.extract`` on the whole audio (to rounding). Between calls at most 559 samples are held.

    Audio under 200 samples (12.5 ms), which lhotse refuses or whose reflection would need samples that are not
    there, is reflected as often as needed.

    Attributes:
      pending: samples of which not every frame is made, the reflected edge among them once it is ``started``.
      finished: no more audio will come.
      num_samples, num_frames: received and made so far.
    """

    def __init__(self, device: str = "cpu"):
        self._layer = make_fbank(device).extractor
        self.pending = torch.zeros(0, device=device)
        self.started = False
        self.finished = False
        self.num_samples = 0
        self.num_frames = 0

    def accept(self, samples: Tensor) -> Tensor:
        """samples (S,) float in [-1, 1] -> the frames that are complete now, (T, 80), T >= 0."""
        if self.finished:
            raise ValueError("the stream has been finished; open another one")
        self.num_samples += samples.numel()
        self.pending = torch.cat([self.pending, samples.to(self.pending)])
        if not self.started:
            if self.num_samples < WINDOW - LEFT_EDGE:
                return self.pending.new_zeros(0, NUM_MEL_BINS)
            self.pending = torch.cat([self.pending[:LEFT_EDGE].flip(0), self.pending])
            self.started = True
        return self._extract()

    def finish(self) -> Tensor:
        """The last frames, (T, 80): those that reach over the end of the audio."""
        if self.finished:
            return self.pending.new_zeros(0, NUM_MEL_BINS)
        self.finished = True
        total = num_frames(self.num_samples)
        # Length, in samples, of the audio with its edges up to the end of the last frame.
        missing = (total - 1) * SHIFT + WINDOW - LEFT_EDGE - self.num_samples
        if self.num_frames >= total:
            return self.pending.new_zeros(0, NUM_MEL_BINS)
        if not self.started:
            index = torch.arange(-LEFT_EDGE, self.num_samples + missing, device=self.pending.device)
            self.pending = self.pending[_reflect(index, self.num_samples)]
        else:
            self.pending = torch.cat([self.pending, self.pending[-missing:].flip(0)])
        return self._extract()

    def _extract(self) -> Tensor:
        if self.pending.numel() < WINDOW:
            return self.pending.new_zeros(0, NUM_MEL_BINS)
        frames, rest = self._layer.online_inference(self.pending[:0].unsqueeze(0), context=self.pending.unsqueeze(0))
        # A clone, or a long first piece would be kept alive by the few samples that are left of it.
        self.pending = rest[0].clone()
        self.num_frames += frames.size(1)
        return frames[0]


def _reflect(index: Tensor, size: int) -> Tensor:
    """Positions outside of [0, size) folded back, the edge samples repeated: ... 1 0 | 0 1 2 | 2 1 ..."""
    index = index.remainder(2 * size)
    return torch.minimum(index, 2 * size - 1 - index)
