"""The gated linear unit in front of a convolution, value * sigmoid(gate) with zeros beyond the end: one kernel forward, one
backward."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sammo.kernels.balance import balance
from sammo.kernels.launch import elements

BLOCK = 1024


@triton.jit
def _gate_kernel(x_ptr, padding_ptr, y_ptr, numel, channels, HAS_PADDING: tl.constexpr, BLOCK: tl.constexpr):
    """y (rows, C) from x (rows, 2 C), values and gates; padding (rows,) bool."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < numel
    row = i // channels
    if HAS_PADDING:
        seen = inside & (tl.load(padding_ptr + row, mask=inside, other=1).to(tl.int32) == 0)
    else:
        seen = inside
    place = i + row * channels
    value = tl.load(x_ptr + place, mask=seen, other=0.0).to(tl.float32)
    gate = tl.load(x_ptr + place + channels, mask=seen, other=0.0).to(tl.float32)
    tl.store(y_ptr + i, value / (1.0 + tl.exp(-gate)), mask=inside)


@triton.jit
def _gate_backward_kernel(
    x_ptr, padding_ptr, grad_ptr, x_grad_ptr, numel, channels, HAS_PADDING: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < numel
    row = i // channels
    if HAS_PADDING:
        seen = inside & (tl.load(padding_ptr + row, mask=inside, other=1).to(tl.int32) == 0)
    else:
        seen = inside
    place = i + row * channels
    value = tl.load(x_ptr + place, mask=seen, other=0.0).to(tl.float32)
    gate = tl.load(x_ptr + place + channels, mask=seen, other=0.0).to(tl.float32)
    grad = tl.load(grad_ptr + i, mask=seen, other=0.0).to(tl.float32)
    share = 1.0 / (1.0 + tl.exp(-gate))
    tl.store(x_grad_ptr + place, grad * share, mask=inside)
    tl.store(x_grad_ptr + place + channels, grad * value * share * (1.0 - share), mask=inside)


class Gated(torch.autograd.Function):
    """x (N, T, 2 C), padding (N, T, 1) bool or None, the remaining arguments of :func:`sammo.kernels.balance.balance` for
    the gradient of the gates or None -> (N, T, C)."""

    @staticmethod
    def forward(ctx, x: Tensor, padding: Tensor | None, edit: tuple | None) -> Tensor:
        x = x.contiguous()
        padding = None if padding is None else padding.contiguous()
        ctx.save_for_backward(x, padding)
        ctx.edit = edit
        num, frames, width = x.shape
        y = x.new_empty(num, frames, width // 2)
        if y.numel():
            _gate_kernel[elements(y, BLOCK)](
                x, padding, y, y.numel(), width // 2, HAS_PADDING=padding is not None, BLOCK=BLOCK
            )
        return y

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, padding = ctx.saved_tensors
        grad, channels = grad.contiguous(), x.shape[-1] // 2
        x_grad = torch.empty_like(x)
        if grad.numel():
            _gate_backward_kernel[elements(grad, BLOCK)](
                x, padding, grad, x_grad, grad.numel(), channels, HAS_PADDING=padding is not None, BLOCK=BLOCK
            )
        if ctx.edit is not None:
            balance(x[..., channels:], x_grad[..., channels:], 2, *ctx.edit, in_place=True)
        return x_grad, None, None
