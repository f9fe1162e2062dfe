"""A Whiten's edit of a gradient: two matrix products, sums, and the numbers between them as two small kernels.

See :func:`sammo.regularize.gradients.whitening_metric` for the formulas.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sammo.kernels.launch import elements

BLOCK = 1024


@triton.jit
def _inner_kernel(
    covariance_ptr, norm_ptr, trace_ptr, inner_ptr, exceeded_ptr, numel, size, channels, limit, tiny, BLOCK: tl.constexpr
):  # fmt: skip
    """inner (G, size, size), twice the gradient of the metric with respect to the covariance, from the covariance, its
    norm () and trace (), over all groups; exceeded (): whether the metric has reached the limit."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < numel
    norm = tl.load(norm_ptr)
    squares, diagonal = norm * norm / channels, tl.load(trace_ptr) / channels
    denominator = diagonal * diagonal + tiny
    by_square = 2.0 / (channels * denominator)
    by_diagonal = -2.0 * diagonal * squares / (channels * denominator * denominator)
    on_diagonal = i // size % size == i % size
    inner = tl.load(covariance_ptr + i, mask=inside, other=0.0) * by_square + tl.where(on_diagonal, by_diagonal, 0.0)
    tl.store(inner_ptr + i, 2.0 * inner, mask=inside)
    if tl.program_id(0) == 0:
        tl.store(exceeded_ptr, (squares / denominator >= limit).to(tl.int8))


@triton.jit
def _edit_kernel(
    grad_ptr, penalty_ptr, length_ptr, penalty_length_ptr, exceeded_ptr, out_ptr, numel, grad_scale, tiny,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """out = grad, plus the penalty scaled to grad_scale times grad's length where the limit was exceeded."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < numel
    exceeded = tl.load(exceeded_ptr).to(tl.int32) != 0
    scale = grad_scale * tl.load(length_ptr) / (tl.load(penalty_length_ptr) + tiny)
    grad = tl.load(grad_ptr + i, mask=inside, other=0.0).to(tl.float32)
    penalty = tl.load(penalty_ptr + i, mask=inside & exceeded, other=0.0)
    tl.store(out_ptr + i, tl.where(exceeded, grad + penalty * scale, grad), mask=inside)


def whiten(
    x: Tensor, grad: Tensor, num_groups: int, limit: float, grad_scale: float, tiny: float
) -> tuple[Tensor, Tensor]:
    """x and grad (..., C) -> the edited gradient, like ``grad``, and whether the limit was exceeded, () bool. The penalty
    is computed in either case: which it is, only the GPU knows."""
    channels = x.shape[-1]
    flat = x.reshape(-1, channels)
    centered = flat - flat.mean(dim=0, dtype=torch.float32)
    groups = centered.view(-1, num_groups, channels // num_groups).transpose(0, 1)  # (G, M, C/G)
    covariance = groups.transpose(1, 2) @ groups
    inner, exceeded = inner_gradient(covariance, limit, tiny)
    penalty = (groups @ inner).transpose(0, 1).reshape(x.shape)
    return edit(grad, penalty, exceeded, grad_scale, tiny), exceeded


def inner_gradient(covariance: Tensor, limit: float, tiny: float) -> tuple[Tensor, Tensor]:
    """covariance (G, C/G, C/G) -> what centered values are multiplied with to give the metric's gradient, of its shape,
    and whether the metric has reached ``limit``, () bool."""
    covariance = covariance.contiguous()
    norm = torch.linalg.vector_norm(covariance)
    trace = covariance.diagonal(dim1=1, dim2=2).sum()
    inner = torch.empty_like(covariance)
    exceeded = torch.empty((), dtype=torch.bool, device=covariance.device)
    groups, size, _ = covariance.shape
    _inner_kernel[elements(covariance, BLOCK)](
        covariance, norm, trace, inner, exceeded, covariance.numel(), size, groups * size, limit, tiny, BLOCK=BLOCK
    )
    return inner, exceeded


def edit(grad: Tensor, penalty: Tensor, exceeded: Tensor, grad_scale: float, tiny: float) -> Tensor:
    """grad (..., C), penalty of its shape in float32, exceeded () -> like grad."""
    grad, penalty = grad.contiguous(), penalty.contiguous()
    length, penalty_length = (torch.linalg.vector_norm(value, dtype=torch.float32) for value in (grad, penalty))
    out = torch.empty_like(grad)
    if grad.numel():
        _edit_kernel[elements(grad, BLOCK)](
            grad, penalty, length, penalty_length, exceeded, out, grad.numel(), grad_scale, tiny, BLOCK=BLOCK
        )
    return out
