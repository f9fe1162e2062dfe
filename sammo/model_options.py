"""Options of a new model: icefall's names, what is left out comes from the preset."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sammo.options import option

if TYPE_CHECKING:
    from sammo.transducer import ModelConfig

# Option -> field of EncoderConfig or ModelConfig, where icefall's name is another.
RENAMED = {
    "downsampling_factor": "downsampling",
    "num_encoder_layers": "num_layers",
    "encoder_unmasked_dim": "unmasked_dim",
    "cnn_module_kernel": "conv_kernel",
    "chunk_size": "chunk_sizes",
    "decoder_dim": "predictor_dim",
    "encoder_warmup_batches": "warmup_batches",
}
Stacks = tuple[int, ...]


def _size(help: str) -> Any:
    return option(None, help)


@dataclass(frozen=True)
class MixerOptions:
    """An encoder, and the sizes that Sammo adds to a Zipformer."""

    encoder: str = option("sammo", "sammo, zipformer or another one of sammo.encoder.config.ENCODER_PRESETS.")
    preset: str = option("medium", "Sizes: medium, small or tiny.")
    mixer: str | None = _size("What carries the long range: mamba2, nla, ...; sammo info lists them.")
    left_context: bool | None = _size("Attention keeps a left context.")
    d_state: int | None = _size("State size of Mamba-2, per hidden channel.")
    mamba_head_dim: int | None = _size("Hidden channels of a Mamba-2 head.")
    mamba_conv_kernel: int | None = _size("Width of Mamba-2's convolution.")
    mamba_groups: int | None = _size("Groups of Mamba-2's B and C projections.")
    mamba_expand: float | None = _size("Hidden width of Mamba-2 over the encoder's width.")
    delta_heads: int | None = _size("Heads of Gated DeltaNet.")

    def to_config(self, vocab_size: int, blank_id: int = 0, use_ctc: bool = False) -> ModelConfig:
        """The configuration that the options ask for; UserError for sizes that do not fit together."""
        from sammo.transducer.config import model_config

        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        encoder, preset = values.pop("encoder"), values.pop("preset")
        sizes = {RENAMED.get(name, name): value for name, value in values.items()}
        return model_config(encoder, preset, vocab_size, blank_id=blank_id, use_ctc=use_ctc, **sizes)


@dataclass(frozen=True)
class ModelOptions(MixerOptions):
    """All sizes of a model. Lists have one number a stack, separated by commas."""

    downsampling_factor: Stacks | None = _size("Downsampling, one a stack.")
    num_encoder_layers: Stacks | None = _size("Layers, one a stack.")
    encoder_dim: Stacks | None = _size("Width, one a stack.")
    encoder_unmasked_dim: Stacks | None = _size("Channels that feature masks leave alone in training, one a stack.")
    feedforward_dim: Stacks | None = _size("Hidden width of the feed-forward modules, one a stack.")
    num_heads: Stacks | None = _size("Attention heads, one a stack.")
    query_head_dim: Stacks | None = _size("Query width of a head, one a stack.")
    pos_head_dim: Stacks | None = _size("Width of a head's position projection, one a stack.")
    value_head_dim: Stacks | None = _size("Value width of a head, one a stack.")
    cnn_module_kernel: Stacks | None = _size("Width of the convolutions, one a stack.")
    frontend_channels: Stacks | None = _size("Channels of the front-end's three convolutions.")
    chunk_size: Stacks | None = _size("Chunk sizes drawn from in training, frames of 20 ms; -1: whole utterances.")
    left_context_frames: Stacks | None = _size(
        "Left contexts drawn from in training, frames of 20 ms, where attention keeps any; -1: all."
    )
    pos_dim: int | None = _size("Width of the position encoding.")
    decoder_dim: int | None = _size("Width of the predictor.")
    joiner_dim: int | None = _size("Width of the joiner.")
    context_size: int | None = _size("Symbols that the predictor sees.")
    mamba_conv_bias: bool | None = _size("Mamba-2's convolution has a bias, as Mamba's own.")
    mamba_output_scale: float | None = _size("Scale of Mamba-2's output projection at the start.")
    mamba_time_constants: tuple[float, ...] | None = _size(
        "Shortest and longest time constant of the heads of Mamba-2 at the start, seconds; '': as mamba-ssm starts."
    )
    encoder_warmup_batches: float | None = _size("Batches over which layers are dropped less and less often.")
