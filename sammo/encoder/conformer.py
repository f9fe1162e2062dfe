"""A streaming Conformer (Gulati et al., Interspeech 2020), the encoder that Zipformer improves on.

Layers of one width at one frame rate, of Zipformer's parts: attention within the chunk and its left context with
relative positions, a convolution that sees nothing after its chunk, half-step feed-forward modules around them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from sammo.encoder.attention import AttentionWeights, LeftContext, SelfAttention
from sammo.encoder.config import EncoderConfig
from sammo.encoder.convolution import ConvModule
from sammo.encoder.encoder import Encoder, Layer, Modules, Stack
from sammo.encoder.feedforward import FeedForward, dropout_schedule
from sammo.encoder.mixers import MIXERS
from sammo.encoder.plan import Plan
from sammo.encoder.resample import Downsample
from sammo.errors import UserError
from sammo.regularize import BiasNorm


class LayerState(NamedTuple):
    """What a layer carries from chunk to chunk; the first two are empty where attention stays within its chunk."""

    keys: LeftContext | None
    values: LeftContext | None
    mixer: Any  # what the mixer's class calls its state
    conv: Tensor | None  # (N, kernel // 2, C): the last inputs of the convolution


NOTHING = LayerState(None, None, None, None)  # no state is kept


class ConformerLayer(Layer):
    """Half a feed-forward step, attention with a mixer beside it, convolution, the other half step, norm; each module
    normalizes its input.

    Args:
      config: the encoder's.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        dim, heads, hidden = config.encoder_dim[0], config.num_heads[0], config.feedforward_dim[0]
        self.attention_weights = AttentionWeights(
            dim, heads, config.query_head_dim[0], config.pos_head_dim[0], config.pos_dim
        )
        self.attention = SelfAttention(dim, heads, config.value_head_dim[0])
        self.mixer = MIXERS[config.mixer].from_config(config, 0)
        self.conv = ConvModule(dim, config.conv_kernel[0])
        self.feedforward1 = FeedForward(dim, hidden, dropout_schedule())
        self.feedforward2 = FeedForward(dim, hidden, dropout_schedule())
        self.norm_feedforward1, self.norm_attention, self.norm_conv = BiasNorm(dim), BiasNorm(dim), BiasNorm(dim)
        self.norm_feedforward2, self.norm = BiasNorm(dim), BiasNorm(dim)

    def forward(
        self, x: Tensor, positions: Tensor, plan: Plan, state: LayerState | None = None
    ) -> tuple[Tensor, LayerState]:
        """x (N, T, C), positions (left + 2 rows - 1, pos_dim) -> (N, T, C) and the next state, to be ignored if none
        was given."""
        state = state or NOTHING
        x = x + 0.5 * self.feedforward1(self.norm_feedforward1(x))
        normed = self.norm_attention(x)
        weights, keys = self.attention_weights(normed, positions, plan, state.keys)
        y, values = self.attention(normed, weights, plan, state.values)
        z, mixer = self.mixer(normed, weights, plan, state.mixer)
        x = x + y + z
        y, conv = self.conv(self.norm_conv(x), plan, state.conv)
        x = x + y
        x = x + 0.5 * self.feedforward2(self.norm_feedforward2(x))
        return self.norm(x), LayerState(keys, values, mixer, conv)

    def init_state(self, batch: int, left: int | None) -> LayerState:
        """Zeros; left: frames of left context, None: attention keeps none."""
        return LayerState(
            self.attention_weights.init_state(batch, left),
            self.attention.init_state(batch, left),
            self.mixer.init_state(batch, left),
            self.conv.init_state(batch),
        )


class Conformer(Encoder):
    """One stack at the output's frame rate."""

    def __init__(self, config: EncoderConfig) -> None:
        if config.downsampling != (config.output_downsampling,):
            raise UserError(
                f"a Conformer has one stack, downsampled by {config.output_downsampling}, not {config.downsampling}"
            )
        super().__init__(config)
        self.downsample = Downsample(config.output_downsampling)
        self.stacks = Modules([Stack(config, 0, [ConformerLayer(config) for _ in range(config.num_layers[0])])])

    def encode(self, x, plans, ends, states):
        stack = self.stacks[0]
        x, states = stack.run(self.downsample(x, ends), plans[stack.factor], states and states[0])
        return x, (states,)
