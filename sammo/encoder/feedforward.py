"""The feed-forward module of a Zipformer layer."""

from __future__ import annotations

from torch import Tensor, nn

from sammo.cpu import FoldedSwoosh
from sammo.kernels.linear import Linear
from sammo.regularize import ActivationDropoutLinear, Balancer, FloatLike, ScheduledFloat, Whiten
from sammo.regularize.schedule import whitening_schedule


def dropout_schedule() -> ScheduledFloat:
    """Dropout of the feed-forward modules."""
    return ScheduledFloat((0.0, 0.3), (20000.0, 0.1))


class FeedForward(nn.Module):
    """linear, SwooshL, dropout shared over time, linear.

    Args:
      dim: width of input and output.
      hidden_dim: width in between.
      dropout: rate.
    """

    def __init__(self, dim: int, hidden_dim: int, dropout: FloatLike) -> None:
        super().__init__()
        self.in_proj = Linear(dim, hidden_dim)
        self.balancer = Balancer(hidden_dim, min_positive=0.3, max_positive=1.0, min_abs=0.75, max_abs=5.0)
        self.out_proj = ActivationDropoutLinear(hidden_dim, dim, "SwooshL", dropout, initial_scale=0.1)
        self.whiten = Whiten(1, whitening_schedule(7.5))
        self._swoosh = FoldedSwoosh()

    def forward(self, x: Tensor) -> Tensor:
        """x (N, T, C) -> (N, T, C)."""
        return self.whiten(self._swoosh.between(x, self.in_proj, self.balancer, self.out_proj))
