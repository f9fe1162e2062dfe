"""What the front-end makes of time: the numbers that everything that counts frames asks. Importable without PyTorch.

Features come at 100 Hz. The front-end's convolutions use up 7 frames and then take 2 for each embed frame (50 Hz), of
which its ConvNeXt block looks 3 ahead; the encoder halves the rate once more (25 Hz). ``frames`` may be a number or a
tensor of whole numbers.
"""

from __future__ import annotations

import math
from typing import Any

FEATURE_RATE = 100.0  # feature frames a second
STRIDE = 2  # feature frames an embed frame
MARGIN = 7  # feature frames that the convolutions use up
LOOKAHEAD = 3  # embed frames that the ConvNeXt block sees ahead
MINIMUM = MARGIN + STRIDE  # fewer feature frames give no embed frame
RATE = FEATURE_RATE / STRIDE  # embed frames a second, the unit of chunk sizes and left contexts
OUTPUT_DOWNSAMPLING = 2
OUTPUT_RATE = RATE / OUTPUT_DOWNSAMPLING  # encoder outputs a second, the unit of time stamps
# Feature frames of a streaming window beyond those of its chunks; they come again in the next window.
WINDOW_EXTRA = MARGIN + STRIDE * LOOKAHEAD

PADDING_VALUE = math.log(1e-10)  # a silent bin: the floor of the features
# Feature frames of silence that follow every utterance before it is decoded, so that the last symbols have their right
# context, in the same way whole or chunk by chunk.
TAIL_PADDING = 30


def embed_frames(frames: Any) -> Any:
    """Feature frames -> embed frames."""
    return (frames - MARGIN) // STRIDE * (frames >= MINIMUM)


def output_frames(frames: Any) -> Any:
    """Feature frames -> frames of the encoder's output."""
    return (embed_frames(frames) + OUTPUT_DOWNSAMPLING - 1) // OUTPUT_DOWNSAMPLING


def window(chunk_size: int) -> int:
    """Feature frames of a streaming window of one chunk (of several: their sum)."""
    return STRIDE * chunk_size + WINDOW_EXTRA
