"""Streaming encoders: Sammo and what it is compared with."""

from __future__ import annotations

from sammo.encoder.config import ENCODER_PRESETS, PRESETS, EncoderConfig, encoder_config
from sammo.encoder.conformer import Conformer
from sammo.encoder.encoder import Encoder, EncoderOutput
from sammo.encoder.state import EncoderState
from sammo.encoder.zipformer import Zipformer

ENCODERS: dict[str, type[Encoder]] = {"conformer": Conformer, "zipformer": Zipformer}


def build_encoder(config: EncoderConfig) -> Encoder:
    """A new encoder with random weights."""
    return ENCODERS[config.encoder](config)


__all__ = [
    "ENCODERS",
    "ENCODER_PRESETS",
    "PRESETS",
    "Encoder",
    "EncoderConfig",
    "EncoderOutput",
    "EncoderState",
    "build_encoder",
    "encoder_config",
]
