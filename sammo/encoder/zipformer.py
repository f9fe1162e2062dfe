"""Zipformer (arXiv:2310.11230, section 3): stacks at several frame rates, in the middle of each layer a mixer.

Its own mixer is the non-linear attention. With Mamba-2 as mixer and without left context it is Sammo.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sammo.encoder.attention import AttentionWeights, LeftContext, SelfAttention
from sammo.encoder.config import EncoderConfig
from sammo.encoder.convolution import ConvModule
from sammo.encoder.encoder import Encoder, Layer, Modules, Stack
from sammo.encoder.feedforward import FeedForward, dropout_schedule
from sammo.encoder.mixers import MIXERS
from sammo.encoder.plan import Plan
from sammo.encoder.resample import Bypass, Downsample, UpsampleCombine
from sammo.encoder.residual import add, add_and_copy, spread
from sammo.regularize import Balancer, BiasNorm, FloatLike, ScheduledFloat, Whiten, sequence_mask
from sammo.regularize.schedule import whitening_schedule

FEATURE_MASK_PROB = 0.125


class LayerState(NamedTuple):
    """What a layer carries from chunk to chunk; the first three are empty where attention stays within its chunk."""

    keys: LeftContext | None
    values1: LeftContext | None
    values2: LeftContext | None
    mixer: Any  # what the mixer's class calls its state
    conv1: Tensor | None  # (N, kernel // 2, C): the last inputs of the first convolution
    conv2: Tensor | None  # (N, kernel // 2, C)


NOTHING = LayerState(*[None] * 6)  # no state is kept


class EncoderLayer(Layer):
    """One layer: attention weights shared by its modules, three feed-forward modules, two self-attentions, two
    convolution modules, a mixer, and two bypasses.

    Args:
      config: the encoder's.
      stack: index of the stack this layer is in.
      skip_rate: layer drop.
    """

    def __init__(self, config: EncoderConfig, stack: int, skip_rate: ScheduledFloat) -> None:
        super().__init__()
        dim, heads = config.encoder_dim[stack], config.num_heads[stack]
        hidden, kernel = config.feedforward_dim[stack], config.conv_kernel[stack]
        value_dim = config.value_head_dim[stack]
        self.attention_weights = AttentionWeights(
            dim, heads, config.query_head_dim[stack], config.pos_head_dim[stack], config.pos_dim
        )
        self.attention1 = SelfAttention(dim, heads, value_dim)
        self.attention2 = SelfAttention(dim, heads, value_dim)
        self.feedforward1 = FeedForward(dim, hidden * 3 // 4, dropout_schedule())
        self.feedforward2 = FeedForward(dim, hidden, dropout_schedule())
        self.feedforward3 = FeedForward(dim, hidden * 5 // 4, dropout_schedule())
        self.conv1 = ConvModule(dim, kernel)
        self.conv2 = ConvModule(dim, kernel)
        self.mixer = MIXERS[config.mixer].from_config(config, stack)
        self.norm = BiasNorm(dim)
        self.bypass_mid = Bypass(dim)
        self.bypass = Bypass(dim, skip_rate)
        self._add_regularizers(dim)

    def forward(
        self, x: Tensor, positions: Tensor, plan: Plan, state: LayerState | None = None
    ) -> tuple[Tensor, LayerState]:
        """x (N, T, C), positions (left + 2 rows - 1, pos_dim) -> (N, T, C) and the next state, to be ignored if none
        was given."""
        state = state or NOTHING
        x, middle, original, h = spread(x)  # h: x in the type that products are computed in
        weights, keys = self.attention_weights(h, positions, plan, state.keys)
        x, h = add_and_copy(x, self.feedforward1(h))
        skip = sequence_mask(x, float(self.attention_skip_rate))
        y, mixer = self.mixer(h, weights, plan, state.mixer)
        x, h = add_and_copy(x, self.balancer_mixer(y), skip)
        y, values1 = self.attention1(h, weights, plan, state.values1)
        x, h = add_and_copy(x, y, skip)
        y, conv1 = self.conv1(h, plan, state.conv1)
        x, h = add_and_copy(x, y, sequence_mask(y, float(self.conv_skip_rate)))
        y = self.balancer_ff2(self.feedforward2(h))
        x = add(x, y, sequence_mask(y, float(self.ff2_skip_rate)))
        x, h = self.bypass_mid.with_copy(middle, x)
        y, values2 = self.attention2(h, weights, plan, state.values2)
        x, h = add_and_copy(x, y, skip)
        y, conv2 = self.conv2(h, plan, state.conv2)
        x, h = add_and_copy(x, y, sequence_mask(y, float(self.conv_skip_rate)))
        y = self.balancer_ff3(self.feedforward3(h))
        x = add(x, y, sequence_mask(y, float(self.ff3_skip_rate)))
        x = self.bypass(original, self.norm(self.balancer1(x)))
        return self.whiten(self.balancer2(x)), LayerState(keys, values1, values2, mixer, conv1, conv2)

    def init_state(self, batch: int, left: int | None) -> LayerState:
        """Zeros; left: frames of left context, None: attention keeps none."""
        return LayerState(
            self.attention_weights.init_state(batch, left),
            self.attention1.init_state(batch, left),
            self.attention2.init_state(batch, left),
            self.mixer.init_state(batch, left),
            self.conv1.init_state(batch),
            self.conv2.init_state(batch),
        )

    def _add_regularizers(self, dim: int) -> None:
        """What keeps a layer's values in range while it trains; none of it changes a value in the forward pass."""

        def balancer(
            low: float, high: float, min_abs: FloatLike, max_abs: float, prob: float | None = None
        ) -> Balancer:
            return Balancer(dim, min_positive=low, max_positive=high, min_abs=min_abs, max_abs=max_abs, prob=prob)

        # Rare on the feed-forward modules, against outputs that stay too small: slow mending is enough.
        self.balancer_mixer = balancer(0.3, 0.7, ScheduledFloat((0.0, 0.004), (4000.0, 0.02)), 100.0, prob=0.05)
        self.balancer_ff2 = balancer(0.3, 0.7, ScheduledFloat((0.0, 0.0), (4000.0, 0.1)), 2.0, prob=0.05)
        self.balancer_ff3 = balancer(0.3, 0.7, ScheduledFloat((0.0, 0.0), (4000.0, 0.2)), 4.0, prob=0.05)
        self.balancer1 = balancer(0.45, 0.55, 0.2, 4.0)
        self.balancer2 = balancer(0.45, 0.55, 0.1, 4.0)
        self.whiten = Whiten(1, whitening_schedule(4.0, ratio=3.0))
        # Shares of sequences that skip the attentions and the mixer, the convolutions, feed-forward 2 and 3.
        self.attention_skip_rate = ScheduledFloat((0.0, 0.2), (4000.0, 0.05), (16000.0, 0.0))
        self.conv_skip_rate = ScheduledFloat((0.0, 0.2), (4000.0, 0.05), (16000.0, 0.0))
        self.ff2_skip_rate = ScheduledFloat((0.0, 0.1), (4000.0, 0.01), (50000.0, 0.0))
        self.ff3_skip_rate = ScheduledFloat((0.0, 0.1), (4000.0, 0.01), (50000.0, 0.0))


class ResampledStack(Stack):
    """A stack with the resampling around it.

    Args:
      config: the encoder's.
      index: which of its stacks.
    """

    def __init__(self, config: EncoderConfig, index: int) -> None:
        factor, num_layers = config.downsampling[index], config.num_layers[index]
        # The front-end learns first, then one layer after the other.
        step, final_rate = config.warmup_batches / (len(config.downsampling) + 1), 0.035 * factor**0.5
        layers = []
        for layer in range(num_layers):
            begin = step * (index + 1 + layer / num_layers)
            end = step * (index + 1 + (layer + 1) / num_layers)
            layers.append(EncoderLayer(config, index, ScheduledFloat((begin, 0.5), (end, final_rate))))
        super().__init__(config, index, layers)
        self.dim = config.encoder_dim[index]
        if self.factor > 1:
            self.downsample = Downsample(self.factor)
            self.upsample = UpsampleCombine(self.dim, self.factor)

    def forward(
        self, x: Tensor, plan: Plan, ends: Tensor | None, mask: Tensor | None, states: tuple[LayerState, ...] | None
    ) -> tuple[Tensor, tuple[LayerState, ...]]:
        """x (N, T, C), its plan at this stack's rate, where sequences end in frames of x (None: at
        T), a mask of channels (N, 1, C) for training -> (N, T, C) and the next states."""
        if self.factor == 1:
            return self.run(x, plan, states, mask)
        y, states = self.run(self.downsample(x, ends), plan, states, mask)
        return self.upsample(x, y), states


class Zipformer(Encoder):
    """Stacks that halve the frame rate towards the middle and double it again, and the way to 25 Hz behind them."""

    looks_back = 2
    stacks: Modules[ResampledStack]

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        self.stacks = Modules(ResampledStack(config, i) for i in range(len(config.downsampling)))
        self.downsample = Downsample(config.output_downsampling)

    def encode(self, x, plans, ends, states):
        masks = self._feature_masks(x) if self.training else None
        outputs, next_states = [], []
        for index, stack in enumerate(self.stacks):
            mask, state = masks and masks[index], states and states[index]
            x, state = stack(_set_channels(x, stack.dim), plans[stack.factor], ends, mask, state)
            outputs.append(x)
            next_states.append(state)
        return self.downsample(_widest(outputs), ends), tuple(next_states)

    def _feature_masks(self, x: Tensor) -> list[Tensor]:
        """One mask (N, 1, C) per stack, drawn so that they agree: some sequences use only the
        first ``unmasked_dim`` channels of every stack, some others half of the rest too."""
        config = self.config
        keep = torch.rand(2, x.shape[0], 1, 1, device=x.device) > FEATURE_MASK_PROB
        keep = torch.stack([keep[0], keep[0] & keep[1]]).to(x.dtype)
        masks = []
        for dim, unmasked in zip(config.encoder_dim, config.unmasked_dim):
            middle = (dim - unmasked) // 2
            parts = [
                x.new_ones(x.shape[0], 1, unmasked),
                keep[0].expand(-1, -1, middle),
                keep[1].expand(-1, -1, dim - unmasked - middle),
            ]
            masks.append(torch.cat(parts, dim=-1))
        return masks


def _widest(outputs: list[Tensor]) -> Tensor:
    """The last stack's output, with channels it does not have from the last stack that does."""
    pieces, have = [outputs[-1]], int(outputs[-1].shape[-1])
    for output in reversed(outputs[:-1]):
        width = int(output.shape[-1])
        if width > have:
            pieces.append(output[..., have:])
            have = width
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=-1)


def _set_channels(x: Tensor, channels: int) -> Tensor:
    """Drop the last channels, or append zeros."""
    have = int(x.shape[-1])
    if channels <= have:
        return x[..., :channels].contiguous()
    return F.pad(x, (0, channels - have))
