"""Numbers of the features, importable without loading anything."""

from __future__ import annotations

NUM_MEL_BINS = 80
SAMPLING_RATE = 16000
FRAME_SHIFT = 0.01  # seconds


def num_frames(duration: float) -> int:
    """Feature frames of ``duration`` seconds of audio (100 a second, rounded half up)."""
    # Counted in samples, as the extractor does: 0.145 / 0.01 is 14.499... and would lose a frame.
    hop = round(FRAME_SHIFT * SAMPLING_RATE)
    return (round(duration * SAMPLING_RATE) + hop // 2) // hop
