"""Non-linear attention (NLA), Zipformer's own mixer (Zipformer paper, section 3.1)."""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn

from sammo.cpu import linear, tanh
from sammo.encoder.attention import left_context, with_left_context
from sammo.encoder.mixers.base import Mixer
from sammo.encoder.plan import Plan
from sammo.recording import as_frames, sizes
from sammo.regularize import Balancer, ScheduledFloat, Whiten
from sammo.regularize.activations import scaled_linear
from sammo.regularize.schedule import whitening_schedule


class NonlinearAttention(Mixer):
    """out((A (tanh(s) * v)) * y) with s, v, y = in(x) and A the weights of the first head.

    Args:
      dim: width of input and output.
      hidden_dim: width of s, v and y.
    """

    label = "non-linear attention"
    attends = True

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.in_proj = nn.Linear(dim, 3 * hidden_dim)
        self.out_proj = scaled_linear(hidden_dim, dim, initial_scale=0.05)
        # Before the tanh; well-trained modules have rather large values there.
        self.balancer = Balancer(
            hidden_dim,
            min_positive=ScheduledFloat((0.0, 0.25), (20000.0, 0.05)),
            max_positive=ScheduledFloat((0.0, 0.75), (20000.0, 0.95)),
            min_abs=0.5,
            max_abs=5.0,
        )
        self.whiten1 = Whiten(1, whitening_schedule(5.0))
        self.whiten2 = Whiten(1, whitening_schedule(5.0, ratio=3.0))
        # Batches in which it averages over the frames it sees.
        self.const_attention_rate = ScheduledFloat((0.0, 0.25), (4000.0, 0.025))

    @classmethod
    def from_config(cls, config, stack):
        dim = config.encoder_dim[stack]
        return cls(dim, 3 * dim // 4)

    def forward(
        self, x: Tensor, weights: Tensor, plan: Plan, state: Tensor | tuple[()] | None = None
    ) -> tuple[Tensor, Tensor | tuple[()] | None]:
        """State: (N, left, hidden), the last values."""
        weights = self._weights(weights[:, 0])
        projected = linear(x, self.in_proj.weight, self.in_proj.bias)
        gate, value, scale = projected.split(self.hidden_dim, dim=-1)
        gate, value = self.balancer(gate), self.whiten1(value)
        value, state = with_left_context(as_frames(value * tanh(gate), plan), plan, state)
        value = torch.bmm(weights, value).view(sizes(scale))
        return self.whiten2(linear(value * scale, self.out_proj.weight, self.out_proj.bias)), state

    def init_state(self, batch: int, left: int | None = None) -> Tensor | tuple[()]:
        return left_context(batch, left, self.hidden_dim)

    def _weights(self, weights: Tensor) -> Tensor:
        """(B, rows, left + rows), now and then in training the mean over what is seen."""
        if self.training and random.random() < float(self.const_attention_rate):
            seen = (weights > 0.0).to(weights.dtype)
            weights = seen / seen.sum(dim=-1, keepdim=True)
        return weights
