"""Attention weights, and the modules that use them (Zipformer paper, section 3.1).

One module computes the weights; the self-attentions and the mixer of a layer share them. All tensors are batch first.
B is the number of attention blocks, N times the blocks of one utterance, see :class:`sammo.encoder.plan.Plan`.
"""

from __future__ import annotations

import random
from typing import Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sammo.cpu import DerivedWeights, linear
from sammo.encoder.plan import Plan
from sammo.encoder.position import to_absolute
from sammo.recording import as_frames, hide, is_tracing, sizes
from sammo.regularize import Balancer, ScheduledFloat, Whiten, penalize_abs_values_gt
from sammo.regularize.activations import scaled_linear
from sammo.regularize.schedule import whitening_schedule

# exp(-1000) is exactly zero, also in half precision. Unlike -inf, it gives no NaN where a whole row is masked.
MASKED_SCORE = -1000.0
SCORE_LIMIT, SCORE_PENALTY, SCORE_PENALTY_PROB = 25.0, 1.0e-4, 0.1


# The last frames (N, left, D) of a stream's past; () where attention keeps no left context.
LeftContext = Union[Tensor, tuple[()]]


def left_context(batch: int, left: int | None, dim: int) -> LeftContext:
    """The left context of a stream that has not begun: (N, left, dim) zeros, () where attention keeps none."""
    return () if left is None else torch.zeros(batch, left, dim)


def with_left_context(x: Tensor, plan: Plan, state: LeftContext | None) -> tuple[Tensor, LeftContext | None]:
    """Cut x into blocks, each with the frames before it.

    Args:
      x: (N, T, D), contiguous.
      state: (N, left, D) what came before x; None: nothing, and no state is kept.

    Returns:
      (B, left + rows, D) and the next state, None if there was none.
    """
    num, frames, dim = sizes(x)
    if plan.left == 0:
        return x.reshape(-1, plan.rows, dim), state
    if state is None:
        padded = F.pad(x, (0, 0, plan.left, 0))
    else:
        assert isinstance(state, Tensor)  # () goes with plan.left == 0
        padded = torch.cat([state, x], dim=1)
        state = padded[:, frames:]
    if plan.rows == frames:
        return padded, state
    blocks = padded.unfold(1, plan.left + plan.rows, plan.rows)  # (N, blocks, D, left + rows)
    return blocks.transpose(2, 3).reshape(-1, plan.left + plan.rows, dim), state


def _bmm(x: Tensor, y: Tensor, transpose: bool = False) -> Tensor:
    """(B, H, M, K) @ (B, H, K, L) -> (B, H, M, L); y (B, H, L, K) where it is to be transposed."""
    if is_tracing():
        return x @ (y.transpose(2, 3) if transpose else y)
    heads, right = x.shape[1], y.reshape(-1, *y.shape[2:])
    product = torch.bmm(x.reshape(-1, *x.shape[2:]), right.transpose(1, 2) if transpose else right)
    return product.view(-1, heads, *product.shape[1:])


class AttentionWeights(nn.Module):
    """Multi-head attention weights with relative positions.

    Args:
      dim: width of the input.
      num_heads, query_head_dim, pos_head_dim: heads, and width per head of queries and keys and
        of the queries for positions.
      pos_dim: width of the positional encoding.
    """

    def __init__(self, dim: int, num_heads: int, query_head_dim: int, pos_head_dim: int, pos_dim: int) -> None:
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
        self.linear_pos = scaled_linear(pos_dim, num_heads * pos_head_dim, bias=False, initial_scale=0.05)
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
        self, x: Tensor, positions: Tensor, plan: Plan, state: LeftContext | None = None
    ) -> tuple[Tensor, LeftContext | None]:
        """x (N, T, C), positions (left + 2 rows - 1, pos_dim), keys of the past (N, left, D) ->
        weights (B, heads, rows, left + rows) that sum to 1 over the last dimension, the next state."""
        heads, width = self.num_heads, self.query_head_dim
        with_positions = not self.training or random.random() >= float(self.position_skip_rate)
        bias = self.in_proj.bias
        if not with_positions:  # a gradient of zero: DistributedDataParallel need not search for unused parameters
            bias = bias + 0.0 * self.linear_pos.weight.sum()
        if is_tracing() and plan.left == 0:
            return self._recorded(x, positions, plan), state
        projected = as_frames(linear(x, self.in_proj.weight, bias), plan)
        size = heads * width
        query, key, position = projected.split([size, size, heads * self.pos_head_dim], dim=-1)
        query = query.view(-1, plan.rows, heads, width).transpose(1, 2)
        key, state = with_left_context(self.whiten_keys(self.balance_keys(key)), plan, state)
        sources = plan.left + plan.rows
        key = key.view(-1, sources, heads, width).transpose(1, 2)
        scores = _bmm(query, key, transpose=True)
        if with_positions:
            by_position = self._position_scores(position, positions, plan)
            # Adding in place would make autograd copy what is overwritten.
            scores = scores + by_position if scores.requires_grad else scores.add_(by_position)
        if self.training and random.random() < SCORE_PENALTY_PROB:
            scores = penalize_abs_values_gt(scores, SCORE_LIMIT, SCORE_PENALTY)
        if plan.mask is not None:
            scores = hide(scores, plan.mask, MASKED_SCORE)
        # Half-precision scores give half-precision weights, also under autocast: what is kept for
        # the backward pass is half as large.
        return scores.softmax(dim=-1, dtype=scores.dtype), state

    def _recorded(self, x: Tensor, positions: Tensor, plan: Plan) -> Tensor:
        """The weights within a chunk in the graph of an export: with the layer's outputs ordered by head, one change of
        shape does for queries, keys and positions."""
        heads, widths = self.num_heads, (self.query_head_dim, self.query_head_dim, self.pos_head_dim)
        kinds = torch.arange(heads * sum(widths)).split([heads * width for width in widths])
        order = torch.cat([kind.view(heads, width) for kind, width in zip(kinds, widths)], dim=1).flatten()
        projected = linear(x, self.in_proj.weight[order], self.in_proj.bias[order])
        query, key, position = projected.view(-1, plan.rows, heads, sum(widths)).transpose(1, 2).split(widths, dim=-1)
        by_offset = position @ self._position_keys(positions, plan, x.dtype)
        scores = query @ key.transpose(2, 3) + to_absolute(by_offset, plan.rows, 0)
        return (scores if plan.mask is None else hide(scores, plan.mask, MASKED_SCORE)).softmax(dim=-1)

    def init_state(self, batch: int, left: int | None) -> LeftContext:
        """Keys of the past: (N, left, heads * query_head_dim) zeros."""
        return left_context(batch, left, self.num_heads * self.query_head_dim)

    def _position_scores(self, query: Tensor, positions: Tensor, plan: Plan) -> Tensor:
        """query (N, T, heads * pos_head_dim) -> (B, heads, rows, left + rows)."""
        heads, width = self.num_heads, self.pos_head_dim
        key = self._position_keys(positions, plan, query.dtype)
        query = query.view(-1, plan.rows, heads, width)
        if is_tracing():
            return to_absolute(query.transpose(1, 2) @ key, plan.rows, plan.left)
        query = query.permute(2, 0, 1, 3).reshape(heads, -1, width)
        offsets = plan.left + 2 * plan.rows - 1
        scores = torch.bmm(query, key.to(query.dtype)).view(heads, -1, plan.rows, offsets)
        return to_absolute(scores, plan.rows, plan.left).transpose(0, 1)

    def _position_keys(self, positions: Tensor, plan: Plan, dtype: torch.dtype) -> Tensor:
        """(heads, pos_head_dim, left + 2 rows - 1)."""
        return self._derived(
            (plan.rows, plan.left, dtype),
            lambda: self.linear_pos(positions)
            .view(-1, self.num_heads, self.pos_head_dim)
            .permute(1, 2, 0)
            .contiguous(),
            self.linear_pos.weight,
        )


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
        self, x: Tensor, weights: Tensor, plan: Plan, state: LeftContext | None = None
    ) -> tuple[Tensor, LeftContext | None]:
        """x (N, T, C), weights (B, heads, rows, left + rows), values of the past (N, left, D) -> (N, T, C), the next
        state."""
        value = as_frames(linear(x, self.in_proj.weight, self.in_proj.bias), plan)
        value, state = with_left_context(value, plan, state)
        heads, sources, width = self.num_heads, plan.left + plan.rows, self.in_proj.out_features // self.num_heads
        value = _bmm(weights, value.view(-1, sources, heads, width).transpose(1, 2)).transpose(1, 2)
        value = value.reshape(*sizes(x)[:-1], heads * width)
        return self.whiten(linear(value, self.out_proj.weight, self.out_proj.bias)), state

    def init_state(self, batch: int, left: int | None) -> LeftContext:
        """Values of the past: (N, left, heads * value_head_dim) zeros."""
        return left_context(batch, left, self.in_proj.out_features)
