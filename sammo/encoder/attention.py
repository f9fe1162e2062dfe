"""Attention weights, and the modules that use them (Zipformer paper, section 3.1).

One module computes the weights; two self-attentions and, in Zipformer, the non-linear attention
(NLA) share them. All tensors are batch first. B is the number of attention blocks, N times the
blocks of one utterance, see :class:`sammo.encoder.plan.Plan`.
"""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sammo.encoder.derived import DerivedWeights
from sammo.encoder.linear import linear
from sammo.encoder.plan import Plan
from sammo.encoder.position import to_absolute
from sammo.regularize import Balancer, ScheduledFloat, Whiten, penalize_abs_values_gt
from sammo.regularize.activations import scaled_linear
from sammo.regularize.schedule import whitening_schedule

# exp(-1000) is exactly zero, also in half precision, and a row of nothing else is not NaN.
MASKED_SCORE = -1000.0
SCORE_LIMIT, SCORE_PENALTY, SCORE_PENALTY_PROB = 25.0, 1.0e-4, 0.1


def with_left_context(x: Tensor, plan: Plan, past: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Cut x into blocks, each with the frames before it.

    Args:
      x: (N, T, D), contiguous.
      past: (N, left, D) what came before x; None: nothing, or no state is kept.

    Returns:
      (B, left + rows, D) and the next past, None if there was none.
    """
    num, frames, dim = x.shape
    if plan.left == 0:
        return x.reshape(-1, plan.rows, dim), past
    padded = F.pad(x, (0, 0, plan.left, 0)) if past is None else torch.cat([past, x], dim=1)
    next_past = None if past is None else padded[:, frames:]
    if plan.rows == frames:
        return padded, next_past
    blocks = padded.unfold(1, plan.left + plan.rows, plan.rows)  # (N, blocks, D, left + rows)
    return blocks.transpose(2, 3).reshape(-1, plan.left + plan.rows, dim), next_past


class AttentionWeights(nn.Module):
    """Multi-head attention weights with relative positions.

    Args:
      dim: width of the input.
      num_heads, query_head_dim, pos_head_dim: heads, and width per head of queries and keys and
        of the queries for positions.
      pos_dim: width of the positional encoding.
    """

    def __init__(
        self, dim: int, num_heads: int, query_head_dim: int, pos_head_dim: int, pos_dim: int
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_head_dim = query_head_dim
        self.pos_head_dim = pos_head_dim
        # The start scale takes the place of the usual division by sqrt(head dim).
        self.in_proj = scaled_linear(
            dim,
            (2 * query_head_dim + pos_head_dim) * num_heads,
            initial_scale=query_head_dim**-0.25,
        )
        self.linear_pos = scaled_linear(
            pos_dim, num_heads * pos_head_dim, bias=False, initial_scale=0.05
        )
        self.whiten_keys = Whiten(num_heads, whitening_schedule(3.0), grad_scale=0.025)
        # The weights do not depend on the mean of the keys, so that nothing but rounding noise
        # drives their bias: keep it from wandering.
        self.balance_keys = Balancer(
            query_head_dim * num_heads,
            min_positive=0.4,
            max_positive=0.6,
            min_abs=0.0,
            max_abs=100.0,
            prob=0.025,
        )
        self.position_skip_rate = ScheduledFloat((0.0, 0.5), (4000.0, 0.0))
        self._derived = DerivedWeights()

    def forward(
        self, x: Tensor, positions: Tensor, plan: Plan, past: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """x (N, T, C), positions (left + 2 rows - 1, pos_dim), past keys (N, left, D) ->
        weights (B, heads, rows, left + rows) that sum to 1 over the last dimension, next past."""
        heads, width = self.num_heads, self.query_head_dim
        projected = linear(x, self.in_proj.weight, self.in_proj.bias)
        blocks = projected.view(-1, plan.rows, projected.shape[-1])
        batch = blocks.shape[0]
        size = heads * width
        query = blocks[..., :size].view(batch, plan.rows, heads, width).transpose(1, 2)
        key = projected[..., size : 2 * size]
        if self.training:
            key = self.whiten_keys(self.balance_keys(key))
        key, past = with_left_context(key, plan, past)
        sources = plan.left + plan.rows
        key = key.view(batch, sources, heads, width).transpose(1, 2)
        scores = torch.bmm(
            query.reshape(-1, plan.rows, width),
            key.reshape(-1, sources, width).transpose(1, 2),
        ).view(batch, heads, plan.rows, sources)
        if not self.training or random.random() >= float(self.position_skip_rate):
            scores = scores.add_(self._position_scores(blocks[..., 2 * size :], positions, plan))
        if self.training and random.random() < SCORE_PENALTY_PROB:
            scores = penalize_abs_values_gt(scores, SCORE_LIMIT, SCORE_PENALTY)
        if plan.mask is not None:
            scores = scores.masked_fill(plan.mask, MASKED_SCORE)
        # Half-precision scores give half-precision weights, also under autocast: what is kept for
        # the backward pass is half as large.
        return scores.softmax(dim=-1, dtype=scores.dtype), past

    def _position_scores(self, query: Tensor, positions: Tensor, plan: Plan) -> Tensor:
        """query (B, rows, heads * pos_head_dim) -> (B, heads, rows, left + rows)."""
        heads, width = self.num_heads, self.pos_head_dim
        key = self._derived(
            (plan.rows, plan.left, query.dtype),
            lambda: self.linear_pos(positions).view(-1, heads, width).permute(1, 2, 0).contiguous(),
            self.linear_pos.weight,
        )  # (heads, width, offsets)
        query = query.view(-1, plan.rows, heads, width).permute(2, 0, 1, 3).reshape(heads, -1, width)
        scores = torch.bmm(query, key.to(query.dtype)).view(heads, -1, plan.rows, key.shape[-1])
        return to_absolute(scores, plan.rows, plan.left).transpose(0, 1)


class SelfAttention(nn.Module):
    """Weighted sum of projected values, projected back.

    Args:
      dim: width of input and output.
      num_heads, value_head_dim: heads and width of values per head.
    """

    def __init__(self, dim: int, num_heads: int, value_head_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj = nn.Linear(dim, num_heads * value_head_dim)
        self.out_proj = scaled_linear(num_heads * value_head_dim, dim, initial_scale=0.05)
        self.whiten = Whiten(1, whitening_schedule(7.5, ratio=3.0))

    def forward(
        self, x: Tensor, weights: Tensor, plan: Plan, past: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """x (N, T, C), weights (B, heads, rows, left + rows), past values (N, left, D) ->
        (N, T, C), next past."""
        value, past = with_left_context(linear(x, self.in_proj.weight, self.in_proj.bias), plan, past)
        value = value.view(*value.shape[:2], self.num_heads, -1).transpose(1, 2)
        value = torch.bmm(weights.flatten(0, 1), value.reshape(-1, value.shape[2], value.shape[3]))
        value = value.view(weights.shape[0], self.num_heads, plan.rows, -1).transpose(1, 2)
        value = value.reshape(x.shape[0], x.shape[1], -1)
        out = linear(value, self.out_proj.weight, self.out_proj.bias)
        return (self.whiten(out) if self.training else out), past


class NonlinAttention(nn.Module):
    """Non-linear attention, Zipformer's own module: out((A (tanh(s) * v)) * y), one head.

    Args:
      dim: width of input and output.
      hidden_dim: width of s, v and y.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
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

    def forward(
        self, x: Tensor, weights: Tensor, plan: Plan, past: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """x (N, T, C), weights (B, rows, left + rows), past (N, left, hidden) ->
        (N, T, C), next past."""
        gate, value, scale = linear(x, self.in_proj.weight, self.in_proj.bias).chunk(3, dim=-1)
        if self.training:
            gate, value = self.balancer(gate), self.whiten1(value)
        if torch.is_grad_enabled():
            value = value * torch.tanh(gate)
        else:  # tanh by the sigmoid, which is six times as fast on a CPU
            value = value * torch.sigmoid(2.0 * gate).mul_(2.0).sub_(1.0)
        value, past = with_left_context(value, plan, past)
        value = torch.bmm(weights, value).view(scale.shape)
        out = linear(value * scale, self.out_proj.weight, self.out_proj.bias)
        return (self.whiten2(out) if self.training else out), past
