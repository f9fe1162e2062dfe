"""Floats that follow a schedule over the number of training batches (Zipformer paper, appendix)."""

from __future__ import annotations

from bisect import bisect_right
from typing import Union

from torch import nn


class PiecewiseLinear:
    """A piecewise linear function of one float, given as (x, y) points with increasing x.

    It is constant before the first point and after the last.
    """

    def __init__(self, *points: tuple[float, float]) -> None:
        if not points:
            raise ValueError("a piecewise linear function needs at least one (x, y) point")
        self.xs = [float(x) for x, _ in points]
        self.ys = [float(y) for _, y in points]
        if any(later <= earlier for earlier, later in zip(self.xs, self.xs[1:])):
            raise ValueError(f"x must increase from point to point, got {self.xs}")

    def __call__(self, x: float) -> float:
        after = bisect_right(self.xs, x)
        if after == 0:
            return self.ys[0]
        if after == len(self.xs):
            return self.ys[-1]
        x0, x1 = self.xs[after - 1], self.xs[after]
        y0, y1 = self.ys[after - 1], self.ys[after]
        return y0 + (y1 - y0) * (x - x0) / (x1 - x0)

    def __repr__(self) -> str:
        return f"PiecewiseLinear({', '.join(map(str, zip(self.xs, self.ys)))})"


class ScheduledFloat(nn.Module):
    """A float that moves along a :class:`PiecewiseLinear` schedule while its owner is training.

    Use ``float(value)``. In evaluation, and before :func:`set_batch_count` was called, it is
    ``default``. It is a module only so that it is found among a model's modules and knows whether
    the model is training.

    Args:
      points: (batch count, value), see :class:`PiecewiseLinear`.
      default: the value outside training.
    """

    def __init__(self, *points: tuple[float, float], default: float = 0.0) -> None:
        super().__init__()
        self.schedule = PiecewiseLinear(*points)
        self.default = float(default)
        self.value: float | None = None

    def __float__(self) -> float:
        return self.default if self.value is None or not self.training else self.value

    def extra_repr(self) -> str:
        return f"{self.schedule}, default={self.default}, value={self.value}"


FloatLike = Union[float, ScheduledFloat]


def set_batch_count(module: nn.Module, count: float) -> None:
    """Move every scheduled float of ``module`` to ``count`` training batches.

    Args:
      count: batches seen so far, scaled by the caller if its batches are smaller or larger than
        the reference duration.
    """
    for child in module.modules():
        if isinstance(child, ScheduledFloat):
            child.value = child.schedule(count)


def whitening_schedule(limit: float, ratio: float = 2.0) -> ScheduledFloat:
    """A whitening limit that rises to ``ratio`` times ``limit`` over 20000 batches."""
    return ScheduledFloat((0.0, limit), (20000.0, ratio * limit), default=limit)
