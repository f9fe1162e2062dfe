"""Turns round the gradient of a parameter that would leave its range."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sammo.kernels.launch import elements

BLOCK = 1024


@triton.jit
def _limit_kernel(x_ptr, grad_ptr, out_ptr, numel, low, high, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < numel
    x = tl.load(x_ptr + i, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(grad_ptr + i, mask=inside, other=0.0)
    wrong = ((grad > 0) & (x < low)) | ((grad < 0) & (x > high))
    tl.store(out_ptr + i, tl.where(wrong, -grad, grad), mask=inside)


def turn_back(x: Tensor, grad: Tensor, low: float, high: float) -> Tensor:
    """x and grad of any shape -> like ``grad``, with the other sign where a step against it would move x further out of
    [low, high]."""
    x, grad = x.contiguous(), grad.contiguous()
    out = torch.empty_like(grad)
    if grad.numel():
        _limit_kernel[elements(grad, BLOCK)](x, grad, out, grad.numel(), low, high, BLOCK=BLOCK)
    return out
