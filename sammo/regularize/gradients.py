"""Gradient edits: they leave the forward pass alone and steer what training does to activations.

Whether a Balancer or a Whiten acts in a step is drawn from Python's ``random``, so that restoring
its state repeats a run exactly. A Whiten also remembers whether it last found its limit exceeded;
:func:`regularizer_state` is that memory, to be kept in checkpoints.
"""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor, nn

from sammo.kernels import by_triton
from sammo.regularize.schedule import FloatLike, ScheduledFloat

TINY = 1.0e-20


# ------------------------------------------------------------------------------------ Balancer


class Balancer(nn.Module):
    """Keeps each channel's share of positive values and mean absolute value within limits.

    The limits are translated, for a normal distribution, to limits on mean / standard deviation
    and on the root mean square. Where a channel breaks one, every element's gradient g becomes
    g + |g| * e, with e the direction that mends it, of root mean square ``grad_scale``.

    Args:
      num_channels: size of ``channel_dim``.
      channel_dim: dimension of the channels.
      min_positive, max_positive: limits of the share of positive values.
      min_abs, max_abs: limits of the mean absolute value.
      grad_scale: strength.
      prob: probability of acting in one step; by default falling from 0.5 to 0.125.
    """

    def __init__(
        self,
        num_channels: int,
        channel_dim: int = -1,
        min_positive: FloatLike = 0.05,
        max_positive: FloatLike = 0.95,
        min_abs: FloatLike = 0.2,
        max_abs: FloatLike = 100.0,
        grad_scale: FloatLike = 0.04,
        prob: FloatLike | None = None,
    ) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.channel_dim = channel_dim
        self.min_positive = min_positive
        self.max_positive = max_positive
        self.min_abs = min_abs
        self.max_abs = max_abs
        self.grad_scale = grad_scale
        if prob is None:
            prob = ScheduledFloat((0.0, 0.5), (8000.0, 0.125), default=0.4)
        self.prob = prob

    def forward(self, x: Tensor) -> Tensor:
        """Return x; in training its gradient may be edited."""
        edit = self.draw(x)
        return x if edit is None else _Balance.apply(x, self.channel_dim % x.ndim, *edit)

    def draw(self, x: Tensor) -> tuple[tuple[float, float, float, float], float] | None:
        """Limits and strength of the edit of x's gradient; None if there is to be none in this step."""
        if not self.training or not x.requires_grad or random.random() >= float(self.prob):
            return None
        limits = (
            _mean_of_share(float(self.min_positive)),
            _mean_of_share(float(self.max_positive)),
            _rms_of_abs(float(self.min_abs)),
            _rms_of_abs(float(self.max_abs)),
        )
        return limits, float(self.grad_scale)


def _rms_of_abs(mean_abs: float) -> float:
    """sqrt(pi / 2) times: the root mean square of normal values with this mean magnitude."""
    return 1.25331413732 * mean_abs


def _mean_of_share(positive: float) -> float:
    """mean / standard deviation at which this share is positive, by a crude inverse of erf."""
    x, eps = 2.0 * positive - 1.0, 1.0e-10
    return 0.8139535143 * (math.log(1 + x + eps) - math.log(1 - x + eps)) / 2.0


class _Balance(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, channel_dim, limits, grad_scale):
        ctx.save_for_backward(x)
        ctx.settings = (channel_dim, limits, grad_scale)
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        channel_dim, limits, grad_scale = ctx.settings
        if by_triton(x):
            from sammo.kernels.balance import balance

            return balance(x, grad, channel_dim, limits, grad_scale, TINY), None, None, None
        with torch.autocast(grad.device.type, enabled=False):
            direction = _balance_direction(x.float(), channel_dim, limits, grad_scale)
            edited = torch.addcmul(grad.float(), grad.float().abs(), direction)
        return edited.to(grad.dtype), None, None, None


def _balance_direction(
    x: Tensor, channel_dim: int, limits: tuple[float, float, float, float], grad_scale: float
) -> Tensor:
    """The gradient, scaled to root mean square ``grad_scale`` in each channel, of

        |m - clamp(m)| + |log(clamp(rms) / rms)|,    m = mean / standard deviation.

    Both terms are affine in x within a channel: base + slope * (x - mean).
    """
    min_mean, max_mean, min_rms, max_rms = limits
    dims = [dim for dim in range(x.ndim) if dim != channel_dim]
    mean = x.mean(dim=dims, keepdim=True)
    centered = x - mean
    var = centered.square().mean(dim=dims, keepdim=True)
    square = var + mean * mean
    std = var.clamp(min=TINY).sqrt()
    rms = square.clamp(min=TINY).sqrt()
    ratio = mean / std
    side = (ratio - ratio.clamp(min_mean, max_mean)).sign()
    size = (rms.clamp(min_rms, max_rms) / rms).log().sign()
    # Derivatives times the number of elements.
    # Where a clamp holds a channel's spread or size, its derivative through it is zero.
    slope = torch.where(var > TINY, -side * ratio / std.square(), 0.0)
    base = side / std
    shrink = torch.where(square > TINY, -size / rms.square(), 0.0)
    slope = slope + shrink
    base = base + shrink * mean
    length = torch.sqrt(base.square() + slope.square() * var)
    # The original clamps the length of the gradient itself, which is this over the element count.
    count = x.numel() // x.shape[channel_dim]
    scale = grad_scale / (length / count).clamp(min=TINY) / count
    return torch.addcmul(base * scale, centered, slope * scale)


# ------------------------------------------------------------------------------------ Whiten


class Whiten(nn.Module):
    """Limits how far the covariance of the channels is from a multiple of the identity.

    The metric is mean(eigenvalue^2) / mean(eigenvalue)^2 of the centered covariance within each
    group of channels, at least 1. Above the limit its gradient is added, scaled to ``grad_scale``
    times the length of the gradient that arrives.

    Args:
      num_groups: groups the channels (last dimension) are cut into.
      limit: largest metric that is left alone.
      prob: (smallest, largest) probability of acting in a step: the second while the limit was
        exceeded when last looked at, otherwise the first.
      grad_scale: strength.
    """

    def __init__(
        self,
        num_groups: int,
        limit: FloatLike,
        prob: tuple[float, float] = (0.025, 0.25),
        grad_scale: FloatLike = 0.01,
    ) -> None:
        super().__init__()
        self.num_groups = num_groups
        self.limit = limit
        self.probs = prob
        self.grad_scale = grad_scale
        self._exceeded: bool | Tensor = True

    @property
    def exceeded(self) -> bool:
        """Whether the limit was exceeded when last looked at; waits for a GPU unless :func:`settle` was called."""
        self._exceeded = bool(self._exceeded)
        return self._exceeded

    @exceeded.setter
    def exceeded(self, value: bool | Tensor) -> None:
        self._exceeded = value

    def forward(self, x: Tensor) -> Tensor:
        """Return x (..., C); in training its gradient may be edited."""
        if not self.training or not x.requires_grad:
            return x
        if random.random() > self.probs[self.exceeded] or float(self.grad_scale) == 0:
            return x
        return _Whitening.apply(x, self)


class _Whitening(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, module):
        ctx.save_for_backward(x)
        ctx.module = module
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        module = ctx.module
        limit, grad_scale = float(module.limit), float(module.grad_scale)
        with torch.autocast(grad.device.type, enabled=False):
            if by_triton(x):
                from sammo.kernels.whiten import whiten

                edited, module.exceeded = whiten(x, grad, module.num_groups, limit, grad_scale, TINY)
                return edited, None
            metric, covariance, centered = whitening_metric(x.float(), module.num_groups)
            exceeded = metric >= limit
            module.exceeded = exceeded
            # On a GPU the penalty is computed in either case: whether it is needed is only known there.
            if not grad.is_cuda and not module.exceeded:
                return grad, None
            penalty = _whitening_gradient(covariance, centered).view(x.shape)
            length = torch.linalg.vector_norm(grad, dtype=torch.float32)
            scale = grad_scale * length / (penalty.norm() + TINY)
            wide = grad.float()
            edited = torch.addcmul(wide, penalty, scale)
            return torch.where(exceeded, edited, wide).to(grad.dtype), None


def whitening_metric(x: Tensor, num_groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """The metric of x (..., C), and what its gradient needs.

    Returns:
      metric (), covariance (G, C/G, C/G) without division by the count, centered (G, M, C/G).
    """
    groups = x.reshape(-1, num_groups, x.shape[-1] // num_groups).transpose(0, 1)
    centered = groups - groups.mean(dim=1, keepdim=True)
    covariance = centered.transpose(1, 2) @ centered
    diagonal = covariance.diagonal(dim1=1, dim2=2).mean()
    squares = covariance.square().sum() / x.shape[-1]
    return squares / (diagonal * diagonal + TINY), covariance, centered


def _whitening_gradient(covariance: Tensor, centered: Tensor) -> Tensor:
    """Gradient of the metric with respect to x: (M, C)."""
    num_channels = covariance.shape[0] * covariance.shape[1]
    diagonal = covariance.diagonal(dim1=1, dim2=2).mean()
    squares = covariance.square().sum() / num_channels
    denominator = diagonal * diagonal + TINY
    by_square = 2.0 / (num_channels * denominator)
    by_diagonal = -2.0 * diagonal * squares / (num_channels * denominator * denominator)
    inner = covariance * by_square
    inner.diagonal(dim1=1, dim2=2).add_(by_diagonal)
    return (centered @ (2.0 * inner)).transpose(0, 1).reshape(centered.shape[1], -1)


def unsettled(module: nn.Module) -> tuple[list[Whiten], Tensor | None]:
    """The Whitens whose last finding is still on the GPU, and these findings (M,), to be read with other numbers."""
    whitens = [(m, m._exceeded) for m in module.modules() if isinstance(m, Whiten)]
    waiting = [(m, exceeded) for m, exceeded in whitens if isinstance(exceeded, Tensor)]
    return [m for m, _ in waiting], torch.stack([exceeded for _, exceeded in waiting]) if waiting else None


def settle(waiting: list[Whiten], found: list[float]) -> None:
    """Hand the findings of :func:`unsettled`, once read, back."""
    for module, exceeded in zip(waiting, found):
        module.exceeded = bool(exceeded)


def regularizer_state(module: nn.Module) -> dict[str, bool]:
    """Name -> whether that Whiten last found its limit exceeded: for an exact resume."""
    return {name: m.exceeded for name, m in module.named_modules() if isinstance(m, Whiten)}


def load_regularizer_state(module: nn.Module, state: dict[str, bool]) -> None:
    """Undo :func:`regularizer_state`; names that are not there keep their present value."""
    for name, child in module.named_modules():
        if isinstance(child, Whiten):
            child.exceeded = bool(state.get(name, child.exceeded))


# ------------------------------------------------------------------------------------ small edits


class _WithPenalty(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, limit, penalty):
        ctx.save_for_backward((x > limit).to(torch.int8) - (x < -limit).to(torch.int8))
        ctx.penalty = penalty
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        (over,) = ctx.saved_tensors
        return grad + ctx.penalty * over.to(grad.dtype), None, None


def penalize_abs_values_gt(x: Tensor, limit: float, penalty: float) -> Tensor:
    """Return x, adding to the loss ``penalty`` times the excess of each |x| over ``limit``.

    The excess is not multiplied by what the loss is multiplied by (loss scaling included): it only
    rules out implausible values.
    """
    return _WithPenalty.apply(x, limit, penalty)


class _ScaleGrad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, alpha):
        ctx.alpha = alpha
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.alpha, None


def scale_grad(x: Tensor, alpha: float) -> Tensor:
    """Return x, multiplying its gradient by ``alpha``."""
    return _ScaleGrad.apply(x, alpha)


class _LimitParam(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, low, high):
        ctx.save_for_backward(x)
        ctx.bounds = (low, high)
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        low, high = ctx.bounds
        if by_triton(x):
            from sammo.kernels.limit import turn_back

            return turn_back(x, grad, low, high), None, None
        wrong = ((grad > 0) & (x < low)) | ((grad < 0) & (x > high))
        return torch.where(wrong, -grad, grad), None, None


def limit_param_value(x: Tensor, low: float, high: float, prob: float = 0.6) -> Tensor:
    """Return the parameter x, turning round, with probability ``prob``, any gradient that would
    move an element further out of [low, high]. For training only."""
    if low > high:
        raise ValueError(f"empty range [{low}, {high}]")
    return _LimitParam.apply(x, low, high) if random.random() < prob else x
