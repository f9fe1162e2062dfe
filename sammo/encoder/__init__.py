"""Streaming encoders: Sammo and the Zipformer it is compared with."""

from __future__ import annotations

from sammo.encoder.config import (
    LOG_EPS,
    PRESETS,
    TAIL_PADDING_FRAMES,
    WINDOW_EXTRA_FRAMES,
    EncoderConfig,
    encoder_config,
)
from sammo.encoder.encoder import Encoder, EncoderOutput, build_encoder
from sammo.encoder.state import EncoderState

__all__ = [
    "LOG_EPS",
    "PRESETS",
    "TAIL_PADDING_FRAMES",
    "WINDOW_EXTRA_FRAMES",
    "Encoder",
    "EncoderConfig",
    "EncoderOutput",
    "EncoderState",
    "build_encoder",
    "encoder_config",
]
