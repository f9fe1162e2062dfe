"""Dropout whose rate may follow a schedule, and whose mask may be shared over one dimension."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sammo.constants import constant
from sammo.kernels import by_triton
from sammo.regularize.schedule import FloatLike


class Dropout(nn.Module):
    """Ordinary dropout with a scheduled rate."""

    def __init__(self, p: FloatLike) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return F.dropout(x, p=float(self.p))


class SharedDropout(nn.Module):
    """Dropout with one mask for all positions of ``shared_dim`` (usually time)."""

    def __init__(self, p: FloatLike, shared_dim: int) -> None:
        super().__init__()
        self.p = p
        self.shared_dim = shared_dim

    def forward(self, x: Tensor) -> Tensor:
        mask = self.mask(x) if self.training else None
        return x if mask is None else x * mask

    def mask(self, x: Tensor) -> Tensor | None:
        """The scaled mask that fits ``x``, or None where nothing is dropped."""
        return shared_dropout_mask(x, float(self.p), self.shared_dim)


def shared_dropout_mask(x: Tensor, p: float, shared_dim: int) -> Tensor | None:
    """A mask of 0 and 1 / (1 - p) with size 1 along ``shared_dim``; None if ``p`` is 0."""
    if p == 0.0:
        return None
    shape = list(x.shape)
    shape[shared_dim] = 1
    if by_triton(x):  # drawn, compared, converted and scaled by one kernel
        return torch.native_dropout(_one(x.dtype, x.device).expand(shape), p, True)[0]
    return (torch.rand(shape, device=x.device) > p).to(x.dtype) * (1.0 / (1.0 - p))


@constant
def _one(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.ones((), dtype=dtype, device=device)


def sequence_mask(x: Tensor, rate: float) -> Tensor | None:
    """(N, 1, 1) mask of 0 and 1 that drops whole sequences of x (N, T, C), unscaled; None if 0."""
    if rate == 0.0:
        return None
    if by_triton(x):
        return x.new_empty(x.shape[0], 1, 1).bernoulli_(1.0 - rate)
    return (torch.rand(x.shape[0], 1, 1, device=x.device) > rate).to(x.dtype)


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """x times a mask of :func:`sequence_mask`."""
    return x if mask is None else x * mask
