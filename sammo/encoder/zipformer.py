"""Layers and stacks of Zipformer and Sammo (Zipformer: arXiv:2310.11230, section 3).

A Sammo layer is a Zipformer layer in which a Mamba-2 block stands in place of the non-linear
attention and attention has no left context.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn

from sammo.encoder.attention import AttentionWeights, NonlinAttention, SelfAttention
from sammo.encoder.config import EncoderConfig
from sammo.encoder.convolution import ConvModule
from sammo.encoder.feedforward import FeedForward
from sammo.encoder.mamba2 import Mamba2
from sammo.encoder.plan import Plan
from sammo.encoder.position import relative_positions
from sammo.encoder.resample import Bypass, Downsample, UpsampleCombine
from sammo.encoder.state import AttentionState, LayerState
from sammo.regularize import Balancer, BiasNorm, Dropout, ScheduledFloat, Whiten, sequence_mask
from sammo.regularize.schedule import whitening_schedule

POSITION_DROPOUT = 0.15


def dropout_schedule() -> ScheduledFloat:
    """Dropout of the feed-forward modules."""
    return ScheduledFloat((0.0, 0.3), (20000.0, 0.1))


class EncoderLayer(nn.Module):
    """One layer: attention weights shared by its modules, three feed-forward modules, two
    self-attentions, two convolution modules, NLA or Mamba-2, and two bypasses.

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
        self.is_mamba = config.name == "sammo"
        if self.is_mamba:
            self.mixer: nn.Module = Mamba2(
                dim,
                config.mamba_inner_dim(dim),
                config.d_state,
                config.mamba_head_dim,
                config.mamba_conv_kernel,
                config.mamba_groups,
                config.mamba_time_constants_in_frames(stack),
            )
            with torch.no_grad():
                self.mixer.out_proj.weight.mul_(config.mamba_output_scale)
            self.mixer_whiten = Whiten(1, whitening_schedule(5.0, ratio=3.0))
        else:
            self.mixer = NonlinAttention(dim, 3 * dim // 4)
        self.norm = BiasNorm(dim)
        self.bypass_mid = Bypass(dim)
        self.bypass = Bypass(dim, skip_rate)

        # Sequences that skip the attentions and the mixer, the convolutions, feed-forward 2, 3.
        self.attention_skip_rate = ScheduledFloat((0.0, 0.2), (4000.0, 0.05), (16000.0, 0.0))
        self.conv_skip_rate = ScheduledFloat((0.0, 0.2), (4000.0, 0.05), (16000.0, 0.0))
        self.ff2_skip_rate = ScheduledFloat((0.0, 0.1), (4000.0, 0.01), (50000.0, 0.0))
        self.ff3_skip_rate = ScheduledFloat((0.0, 0.1), (4000.0, 0.01), (50000.0, 0.0))
        # Batches in which NLA averages over the frames it sees.
        self.const_attention_rate = ScheduledFloat((0.0, 0.25), (4000.0, 0.025))

        self.balancer_mixer = Balancer(
            dim,
            min_positive=0.3,
            max_positive=0.7,
            min_abs=ScheduledFloat((0.0, 0.004), (4000.0, 0.02)),
            prob=0.05,
        )
        # Against feed-forward outputs that stay too small: rare, so that slow mending is enough.
        self.balancer_ff2 = Balancer(
            dim,
            min_positive=0.3,
            max_positive=0.7,
            min_abs=ScheduledFloat((0.0, 0.0), (4000.0, 0.1)),
            max_abs=2.0,
            prob=0.05,
        )
        self.balancer_ff3 = Balancer(
            dim,
            min_positive=0.3,
            max_positive=0.7,
            min_abs=ScheduledFloat((0.0, 0.0), (4000.0, 0.2)),
            max_abs=4.0,
            prob=0.05,
        )
        self.balancer1 = Balancer(
            dim, min_positive=0.45, max_positive=0.55, min_abs=0.2, max_abs=4.0
        )
        self.balancer2 = Balancer(
            dim, min_positive=0.45, max_positive=0.55, min_abs=0.1, max_abs=4.0
        )
        self.whiten = Whiten(1, whitening_schedule(4.0, ratio=3.0))

    def forward(
        self, x: Tensor, positions: Tensor, plan: Plan, state: LayerState | None = None
    ) -> tuple[Tensor, LayerState | None]:
        """x (N, T, C), positions (left + 2 rows - 1, pos_dim) -> (N, T, C) and the next state,
        None if none was given."""
        original, training = x, self.training
        key = value1 = value2 = mixed = conv1 = conv2 = None
        if state is not None:
            mixed, conv1, conv2 = state.mixer, state.conv1, state.conv2
            if state.attention:
                key, value1, value2 = state.attention

        weights, key = self.attention_weights(x, positions, plan, key)
        x = x + self.feedforward1(x)
        skip = sequence_mask(x, float(self.attention_skip_rate)) if training else None

        if self.is_mamba:
            y, mixed = self.mixer(x, mixed)
            if training:
                y = self.mixer_whiten(y)
        else:
            y, mixed = self.mixer(x, self._nla_weights(weights), plan, mixed)
        x = x + (_masked(self.balancer_mixer(y), skip) if training else y)

        y, value1 = self.attention1(x, weights, plan, value1)
        x = x + (_masked(y, skip) if training else y)
        y, conv1 = self.conv1(x, plan, conv1)
        x = x + (_dropped(y, self.conv_skip_rate) if training else y)
        y = self.feedforward2(x)
        x = x + (_dropped(self.balancer_ff2(y), self.ff2_skip_rate) if training else y)
        x = self.bypass_mid(original, x)

        y, value2 = self.attention2(x, weights, plan, value2)
        x = x + (_masked(y, skip) if training else y)
        y, conv2 = self.conv2(x, plan, conv2)
        x = x + (_dropped(y, self.conv_skip_rate) if training else y)
        y = self.feedforward3(x)
        x = x + (_dropped(self.balancer_ff3(y), self.ff3_skip_rate) if training else y)
        if training:
            x = self.balancer1(x)
        x = self.bypass(original, self.norm(x))
        if training:
            x = self.whiten(self.balancer2(x))
        if state is None:
            return x, None
        attention = AttentionState(key, value1, value2) if state.attention else ()
        return x, LayerState(attention, mixed, conv1, conv2)

    def _nla_weights(self, weights: Tensor) -> Tensor:
        """The first head's weights, or the mean over what it sees: (B, rows, left + rows)."""
        weights = weights[:, 0]
        if self.training and random.random() < float(self.const_attention_rate):
            seen = (weights > 0.0).to(weights.dtype)
            weights = seen / seen.sum(dim=-1, keepdim=True)
        return weights


def _masked(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else x * mask


def _dropped(x: Tensor, rate: ScheduledFloat) -> Tensor:
    """x with whole sequences set to zero at this rate."""
    return _masked(x, sequence_mask(x, float(rate)))


class Stack(nn.Module):
    """The layers that run at one frame rate, with the resampling around them.

    Args:
      config: the encoder's.
      index: which of its stacks.
    """

    def __init__(self, config: EncoderConfig, index: int) -> None:
        super().__init__()
        self.factor = config.downsampling[index]
        self.dim = config.encoder_dim[index]
        self.pos_dim = config.pos_dim
        num_layers, stacks = config.num_layers[index], len(config.downsampling)
        # The front-end learns first, then one layer after the other.
        step = config.warmup_batches / (stacks + 1)
        final_rate = 0.035 * self.factor**0.5
        self.layers = nn.ModuleList()
        for layer in range(num_layers):
            begin = step * (index + 1 + layer / num_layers)
            end = step * (index + 1 + (layer + 1) / num_layers)
            rate = ScheduledFloat((begin, 0.5), (end, final_rate))
            self.layers.append(EncoderLayer(config, index, rate))
        self.position_dropout = Dropout(POSITION_DROPOUT)
        if self.factor > 1:
            self.downsample = Downsample(self.factor)
            self.upsample = UpsampleCombine(self.dim, self.factor)

    def forward(
        self,
        x: Tensor,
        plan: Plan,
        ends: Tensor | None = None,
        feature_mask: Tensor | None = None,
        state: tuple[LayerState, ...] | None = None,
    ) -> tuple[Tensor, tuple[LayerState, ...] | None]:
        """x (N, T, C), its plan at this stack's rate, where sequences end in frames of x (None: at
        T), a mask of channels (N, 1, C) for training -> (N, T, C) and the next state."""
        original = x
        if self.factor > 1:
            x = self.downsample(x, ends)
        positions = relative_positions(plan.rows, plan.left, self.pos_dim, x.device, torch.float32)
        if self.training:
            positions = self.position_dropout(positions)
        if feature_mask is not None:
            x = x * feature_mask
        next_state = []
        for index, layer in enumerate(self.layers):
            x, layer_state = layer(x, positions, plan, None if state is None else state[index])
            next_state.append(layer_state)
            if feature_mask is not None:
                x = x * feature_mask
        if self.factor > 1:
            x = self.upsample(original, x)
        return x, None if state is None else tuple(next_state)
