"""The last step of a Whiten: grad + penalty * scale where the limit was exceeded, as one kernel."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sammo.kernels.launch import elements

BLOCK = 1024


@triton.jit
def _edit_kernel(grad_ptr, penalty_ptr, scale_ptr, exceeded_ptr, out_ptr, numel, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < numel
    exceeded = tl.load(exceeded_ptr).to(tl.int32) != 0
    grad = tl.load(grad_ptr + i, mask=inside, other=0.0).to(tl.float32)
    penalty = tl.load(penalty_ptr + i, mask=inside & exceeded, other=0.0)
    edited = tl.where(exceeded, grad + penalty * tl.load(scale_ptr), grad)
    tl.store(out_ptr + i, edited, mask=inside)


def edit(grad: Tensor, penalty: Tensor, scale: Tensor, exceeded: Tensor) -> Tensor:
    """grad (..., C), penalty of its shape in float32, scale () and exceeded () -> like grad."""
    grad, penalty = grad.contiguous(), penalty.contiguous()
    out = torch.empty_like(grad)
    if grad.numel():
        _edit_kernel[elements(grad, BLOCK)](grad, penalty, scale, exceeded, out, grad.numel(), BLOCK=BLOCK)
    return out
