"""The sums that run through a layer.

Under autocast the sums are in float32, and the modules multiply in half precision: each reads a half-precision copy of a
sum. On a GPU one kernel writes both, see :mod:`sammo.kernels.residual`; elsewhere the copy is the sum itself, and
autocast converts it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sammo.kernels import by_triton
from sammo.kernels.linear import compute_dtype
from sammo.regularize import masked


def add(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """x (N, T, C) + y (N, T, C), times a mask (N, 1, 1) if given."""
    if not _fused(x, y):
        return x + masked(y, mask)
    from sammo.kernels.residual import Add

    return Add.apply(x, y, mask, None)


def add_and_copy(x: Tensor, y: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """:func:`add`, and its copy."""
    half = copy_dtype(x)
    if half is None or not _fused(x, y):
        total = add(x, y, mask)
        return total, total
    from sammo.kernels.residual import Add

    return Add.apply(x, y, mask, half)


def spread(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x (N, T, C) three times, for three sums, and its copy; one kernel adds up the gradients of all four."""
    half = copy_dtype(x)
    if half is None or not torch.is_grad_enabled():
        return x, x, x, x
    from sammo.kernels.residual import Spread

    return Spread.apply(x, half)


def copy_dtype(x: Tensor) -> torch.dtype | None:
    """The type of the copy; None where there is none."""
    dtype = compute_dtype(x)
    return None if dtype == x.dtype else dtype


def _fused(x: Tensor, y: Tensor) -> bool:
    return by_triton(x) and x.shape == y.shape
