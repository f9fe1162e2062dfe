"""SwooshL and SwooshR with dropout by a mask shared over time: one kernel forward, one backward."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sammo.kernels.launch import elements

BLOCK = 1024


@triton.jit
def _swoosh_kernel(
    x_ptr, mask_ptr, y_ptr, numel, row, channels, slope, shift, offset, HAS_MASK: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """y = (log(1 + exp(x - shift)) - slope * x - offset) * mask; row: values of one sequence, T * C."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < numel
    x = tl.load(x_ptr + i, mask=inside, other=0.0).to(tl.float32)
    z = x - shift
    y = tl.maximum(z, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(z))) - slope * x - offset
    if HAS_MASK:
        y *= tl.load(mask_ptr + i // row * channels + i % channels, mask=inside, other=0.0).to(tl.float32)
    tl.store(y_ptr + i, y, mask=inside)


@triton.jit
def _swoosh_backward_kernel(
    x_ptr, mask_ptr, grad_ptr, y_ptr, x_grad_ptr, numel, row, channels, slope, shift, offset,
    HAS_MASK: tl.constexpr, HAS_Y: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """From the gradient of y the gradient of x, and with HAS_Y also y once more."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < numel
    x = tl.load(x_ptr + i, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(grad_ptr + i, mask=inside, other=0.0).to(tl.float32)
    z = x - shift
    small = tl.exp(-tl.abs(z))
    derivative = tl.where(z >= 0.0, 1.0, small) / (1.0 + small) - slope
    y = tl.maximum(z, 0.0) + tl.log(1.0 + small) - slope * x - offset
    if HAS_MASK:
        mask = tl.load(mask_ptr + i // row * channels + i % channels, mask=inside, other=0.0).to(tl.float32)
        derivative *= mask
        y *= mask
    tl.store(x_grad_ptr + i, derivative * grad, mask=inside)
    if HAS_Y:
        tl.store(y_ptr + i, y, mask=inside)


def swoosh(x: Tensor, slope: float, shift: float, offset: float, mask: Tensor | None = None) -> Tensor:
    """x of any shape, or (N, T, C) with a mask (N, 1, C) -> the same shape and type, contiguous as x is."""
    x = _dense(x, mask)
    y = torch.empty_like(x)
    if x.numel():
        _swoosh_kernel[elements(x, BLOCK)](
            x, mask, y, x.numel(), x.numel() // len(x), x.shape[-1], slope, shift, offset,
            HAS_MASK=mask is not None, BLOCK=BLOCK,
        )  # fmt: skip
    return y


def swoosh_backward(
    x: Tensor, grad: Tensor, slope: float, shift: float, offset: float, mask: Tensor | None = None, with_y: bool = True
) -> tuple[Tensor, Tensor | None]:
    """The gradient of x, and :func:`swoosh` of it once more (``with_y``), both in the type of x."""
    x = _dense(x, mask)
    grad = grad if grad.stride() == x.stride() else torch.empty_like(x, dtype=grad.dtype).copy_(grad)
    x_grad = torch.empty_like(x)
    y = torch.empty_like(x) if with_y else None
    if x.numel():
        _swoosh_backward_kernel[elements(x, BLOCK)](
            x, mask, grad, y, x_grad, x.numel(), x.numel() // len(x), x.shape[-1], slope, shift, offset,
            HAS_MASK=mask is not None, HAS_Y=with_y, BLOCK=BLOCK,
        )  # fmt: skip
    return x_grad, y


def _dense(x: Tensor, mask: Tensor | None) -> Tensor:
    """x such that its memory, gone through from first to last, holds its values; in their order if there is a mask."""
    if x.is_contiguous() or (mask is None and x.is_contiguous(memory_format=torch.channels_last)):
        return x
    return x.contiguous()
