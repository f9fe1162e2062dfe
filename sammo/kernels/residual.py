"""The sums of a layer, x + y and the bypass x + (y - x) * scale, with their copies in half precision: one kernel forward
and one backward each.

Sums stay in float32; the products that follow are computed in half precision. Both are written at once, and their two
gradients are added up, masked and converted at once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sammo.kernels.launch import elements

BLOCK = 1024
BLOCK_R, BLOCK_C = 32, 64
PARTS = 256  # programs along the frames in the bypass's backward pass at most


@triton.jit
def _add_kernel(
    x_ptr, y_ptr, mask_ptr, sum_ptr, half_ptr, numel, row,
    HAS_MASK: tl.constexpr, HAS_HALF: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """sum = x + y * mask, half the same; row: values of one sequence, T * C."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < numel
    y = tl.load(y_ptr + i, mask=inside, other=0.0).to(tl.float32)
    if HAS_MASK:
        y *= tl.load(mask_ptr + i // row, mask=inside, other=0.0).to(tl.float32)
    total = tl.load(x_ptr + i, mask=inside, other=0.0).to(tl.float32) + y
    tl.store(sum_ptr + i, total, mask=inside)
    if HAS_HALF:
        tl.store(half_ptr + i, total, mask=inside)


@triton.jit
def _add_backward_kernel(
    grad_ptr, half_grad_ptr, mask_ptr, x_grad_ptr, y_grad_ptr, numel, row,
    HAS_MASK: tl.constexpr, HAS_HALF: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """x_grad = grad + half_grad, y_grad = x_grad * mask. Without half_grad x_grad is grad, and not written."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < numel
    grad = tl.load(grad_ptr + i, mask=inside, other=0.0).to(tl.float32)
    if HAS_HALF:
        grad += tl.load(half_grad_ptr + i, mask=inside, other=0.0).to(tl.float32)
        tl.store(x_grad_ptr + i, grad, mask=inside)
    if HAS_MASK:
        grad *= tl.load(mask_ptr + i // row, mask=inside, other=0.0).to(tl.float32)
    tl.store(y_grad_ptr + i, grad, mask=inside)


class Add(torch.autograd.Function):
    """x (N, T, C), y (N, T, C), mask (N, 1, 1) or None -> x + y * mask in the type of x, and in ``half`` if given."""

    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor, mask: Tensor | None, half: torch.dtype | None):
        x, y = x.contiguous(), y.contiguous()
        ctx.save_for_backward(mask)
        ctx.types = x.dtype, y.dtype
        total = torch.empty_like(x)
        copy = None if half is None else torch.empty_like(x, dtype=half)
        if x.numel():
            _add_kernel[elements(x, BLOCK)](
                x, y, mask, total, copy, x.numel(), x.numel() // len(x),
                HAS_MASK=mask is not None, HAS_HALF=half is not None, BLOCK=BLOCK,
            )  # fmt: skip
        return total if half is None else (total, copy)

    @staticmethod
    def backward(ctx, grad: Tensor, half_grad: Tensor | None = None):
        (mask,) = ctx.saved_tensors
        x_dtype, y_dtype = ctx.types
        grad = grad.contiguous()
        half_grad = None if half_grad is None else half_grad.contiguous()
        if half_grad is None and mask is None and x_dtype == y_dtype:
            return grad, grad, None, None
        x_grad = grad if half_grad is None else torch.empty_like(grad, dtype=x_dtype)
        y_grad = torch.empty_like(grad, dtype=y_dtype)
        if grad.numel():
            _add_backward_kernel[elements(grad, BLOCK)](
                grad, half_grad, mask, x_grad, y_grad, grad.numel(), grad.numel() // len(grad),
                HAS_MASK=mask is not None, HAS_HALF=half_grad is not None, BLOCK=BLOCK,
            )  # fmt: skip
        return x_grad, y_grad, None, None


@triton.jit
def _gather_kernel(a_ptr, b_ptr, c_ptr, half_ptr, out_ptr, numel, BLOCK: tl.constexpr):
    """out = a + b + c + half."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < numel
    total = tl.load(half_ptr + i, mask=inside, other=0.0).to(tl.float32)
    total += tl.load(a_ptr + i, mask=inside, other=0.0).to(tl.float32)
    total += tl.load(b_ptr + i, mask=inside, other=0.0).to(tl.float32)
    total += tl.load(c_ptr + i, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + i, total, mask=inside)


class Spread(torch.autograd.Function):
    """x of any shape -> itself three times, and a copy in the type ``half``."""

    @staticmethod
    def forward(ctx, x: Tensor, half: torch.dtype):
        return x.view_as(x), x.view_as(x), x.view_as(x), x.to(half)

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        a, b, c, half = (gradient.contiguous() for gradient in gradients)
        out = torch.empty_like(a)
        if out.numel():
            _gather_kernel[elements(out, BLOCK)](a, b, c, half, out, out.numel(), BLOCK=BLOCK)
        return out, None


@triton.jit(do_not_specialize=["frames", "y_frames"])
def _bypass_kernel(
    x_ptr, y_ptr, scale_ptr, mask_ptr, sum_ptr, half_ptr, numel, frames, channels, y_frames, factor,
    HAS_MASK: tl.constexpr, HAS_HALF: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """sum = x + (y - x) * scale * mask, half the same; frame t of x meets frame t // factor of y."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < numel
    c, t, n = i % channels, i // channels % frames, i // channels // frames
    x = tl.load(x_ptr + i, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(y_ptr + (n * y_frames + t // factor) * channels + c, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(scale_ptr + c, mask=inside, other=0.0).to(tl.float32)
    if HAS_MASK:
        scale *= tl.load(mask_ptr + n, mask=inside, other=0.0).to(tl.float32)
    total = x + (y - x) * scale
    tl.store(sum_ptr + i, total, mask=inside)
    if HAS_HALF:
        tl.store(half_ptr + i, total, mask=inside)


@triton.jit(do_not_specialize=["rows", "frames", "y_frames"])
def _bypass_backward_kernel(
    x_ptr, y_ptr, scale_ptr, mask_ptr, grad_ptr, half_grad_ptr, x_grad_ptr, y_grad_ptr, parts_ptr,
    rows, frames, channels, y_frames, factor, rows_of_part,
    HAS_MASK: tl.constexpr, HAS_HALF: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradients of x and y, and of each part of the rows (frames of y) a part (parts, C) of that of the scale."""
    part = tl.program_id(0)
    first = part.to(tl.int64) * rows_of_part
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    there = (c < channels)[None, :]
    scale = tl.load(scale_ptr + c, mask=c < channels, other=0.0).to(tl.float32)[None, :]
    scale_sum = tl.zeros((BLOCK_C,), tl.float32)
    for start in range(0, rows_of_part, BLOCK_R):
        r = first + start + tl.arange(0, BLOCK_R)
        n, s = r // y_frames, r % y_frames
        here = (r < rows)[:, None] & there
        place = r[:, None] * channels + c[None, :]
        y = tl.load(y_ptr + place, mask=here, other=0.0).to(tl.float32)
        share = tl.zeros((BLOCK_R, 1), tl.float32) + 1.0
        if HAS_MASK:
            share = tl.load(mask_ptr + n, mask=r < rows, other=0.0).to(tl.float32)[:, None]
        y_grad = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
        for step in range(0, factor):
            t = s * factor + step
            inside = here & (t < frames)[:, None]
            wide = (n * frames + t)[:, None] * channels + c[None, :]
            x = tl.load(x_ptr + wide, mask=inside, other=0.0).to(tl.float32)
            grad = tl.load(grad_ptr + wide, mask=inside, other=0.0).to(tl.float32)
            if HAS_HALF:
                grad += tl.load(half_grad_ptr + wide, mask=inside, other=0.0).to(tl.float32)
            passed = grad * scale * share
            tl.store(x_grad_ptr + wide, grad - passed, mask=inside)
            y_grad += passed
            scale_sum += tl.sum(grad * (y - x) * share, 0)
        tl.store(y_grad_ptr + place, y_grad, mask=here)
    tl.store(parts_ptr + part * channels + c, scale_sum, mask=c < channels)


class Bypass(torch.autograd.Function):
    """x (N, T, C), y (N, ceil(T / factor), C), scale (C,), mask (N, 1, 1) or None -> x + (y - x) * scale * mask in the
    type of x, and in ``half`` if given; each frame of y stands for ``factor`` ones."""

    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor, scale: Tensor, mask: Tensor | None, factor: int, half: torch.dtype | None):
        x, y = x.contiguous(), y.contiguous()
        ctx.save_for_backward(x, y, scale, mask)
        ctx.factor = factor
        total = torch.empty_like(x)
        copy = None if half is None else torch.empty_like(x, dtype=half)
        _, frames, channels = x.shape
        if x.numel():
            _bypass_kernel[elements(x, BLOCK)](
                x, y, scale, mask, total, copy, x.numel(), frames, channels, y.shape[1], factor,
                HAS_MASK=mask is not None, HAS_HALF=half is not None, BLOCK=BLOCK,
            )  # fmt: skip
        return total if half is None else (total, copy)

    @staticmethod
    def backward(ctx, grad: Tensor, half_grad: Tensor | None = None):
        x, y, scale, mask = ctx.saved_tensors
        grad = grad.contiguous()
        half_grad = None if half_grad is None else half_grad.contiguous()
        num, frames, channels = x.shape
        rows = num * y.shape[1]
        rows_of_part = BLOCK_R * triton.cdiv(triton.cdiv(rows, PARTS), BLOCK_R)
        parts = triton.cdiv(rows, rows_of_part) if rows else 0
        x_grad, y_grad = torch.empty_like(x), torch.empty_like(y)
        sums = torch.empty(parts, channels, device=x.device)
        if parts:
            _bypass_backward_kernel[(parts, triton.cdiv(channels, BLOCK_C))](
                x, y, scale, mask, grad, half_grad, x_grad, y_grad, sums,
                rows, frames, channels, y.shape[1], ctx.factor, rows_of_part,
                HAS_MASK=mask is not None, HAS_HALF=half_grad is not None, BLOCK_R=BLOCK_R, BLOCK_C=BLOCK_C,
            )  # fmt: skip
        return x_grad, y_grad, sums.sum(dim=0).to(scale.dtype), None, None, None
