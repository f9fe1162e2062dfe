"""Numbers of the features, importable without loading anything."""

from __future__ import annotations

import math

NUM_MEL_BINS = 80
SAMPLING_RATE = 16000
FRAME_SHIFT = 0.01  # seconds
LOG_EPS = math.log(1e-10)  # a silent bin; what padding is filled with


def num_frames(duration: float) -> int:
    """Feature frames of ``duration`` seconds of audio (100 a second, rounded half up)."""
    # Counted in samples, as the extractor does: 0.145 / 0.01 is 14.499... and would lose a frame.
    hop = round(FRAME_SHIFT * SAMPLING_RATE)
    return (round(duration * SAMPLING_RATE) + hop // 2) // hop


def num_encoder_frames(frames: int) -> int:
    """Encoder-output frames of ``frames`` feature frames: the front-end's (T - 7) // 2, then halved."""
    return max(0, ((frames - 7) // 2 + 1) // 2)
