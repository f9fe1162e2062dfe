"""Sizes of a whole model: what, saved beside its weights, rebuilds it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from sammo.encoder.config import EncoderConfig, check_sizes, encoder_config
from sammo.errors import UserError


@dataclass(frozen=True)
class ModelConfig:
    """An encoder with its predictor and joiner."""

    encoder: EncoderConfig
    vocab_size: int  # symbols, blank included
    blank_id: int = 0
    context_size: int = 2  # symbols that the predictor sees
    predictor_dim: int = 512
    joiner_dim: int = 512
    use_ctc: bool = False  # a linear layer for an auxiliary CTC loss, used in training only

    def __post_init__(self) -> None:
        check_sizes(self)
        for name in ("vocab_size", "context_size", "predictor_dim", "joiner_dim"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise UserError(f"model option {name} is {value!r}: give a positive whole number")
        if not 0 <= self.blank_id < self.vocab_size:
            raise UserError(f"blank_id {self.blank_id} is not among the symbols 0 to {self.vocab_size - 1}")
        if self.context_size > 1 and self.predictor_dim % 4:
            raise UserError(
                f"predictor_dim {self.predictor_dim} is not a multiple of 4, the group size of its convolution"
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON types only; the inverse of :meth:`from_dict`."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**values, "encoder": self.encoder.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """The inverse of :meth:`to_dict`.

        Raises:
          UserError: a key is missing or unknown.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        unknown, missing = sorted(set(values) - names), sorted(names - set(values))
        if unknown or missing:
            raise UserError(
                "model configuration does not fit this version of sammo:"
                + (f" unknown {', '.join(unknown)}" if unknown else "")
                + (f" missing {', '.join(missing)}" if missing else "")
            )
        return cls(**{**values, "encoder": EncoderConfig.from_dict(values["encoder"])})


# medium and small are icefall's; tiny goes with its narrow encoder.
PRESETS: dict[str, dict[str, int]] = {
    "medium": dict(predictor_dim=512, joiner_dim=512),
    "small": dict(predictor_dim=512, joiner_dim=512),
    "tiny": dict(predictor_dim=128, joiner_dim=128),
}


def model_config(encoder_name: str, preset: str, vocab_size: int, **overrides: Any) -> ModelConfig:
    """The configuration of a preset, with some fields changed.

    Args:
      encoder_name: a name in ENCODER_PRESETS.
      preset: "medium", "small" or "tiny".
      vocab_size: number of symbols, blank included.
      overrides: fields of :class:`ModelConfig` or of the encoder's configuration; None leaves the
        preset's value.

    Raises:
      UserError: an unknown name, preset or option, or sizes that do not fit together.
    """
    own = {field.name for field in dataclasses.fields(ModelConfig)} - {"encoder", "vocab_size"}
    encoder = encoder_config(encoder_name, preset, **{k: v for k, v in overrides.items() if k not in own})
    sizes = {k: v for k, v in overrides.items() if k in own and v is not None}
    return ModelConfig(encoder, vocab_size, **{**PRESETS[preset], **sizes})
