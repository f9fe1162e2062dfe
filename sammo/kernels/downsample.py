"""The weighted mean of each few frames, where the last frame of a sequence stands in for those after it: one kernel
forward, one backward."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_R, BLOCK_C = 16, 128
PARTS = 512  # programs of the backward pass at most


@triton.jit
def _last(ends_ptr, n, g, frames, HAS_ENDS: tl.constexpr, FACTOR: tl.constexpr):
    """Of groups g the last frame there is, counted from its first; 0 where there is none."""
    end = frames
    if HAS_ENDS:
        end = tl.load(ends_ptr + n).to(tl.int32)
    return tl.minimum(tl.maximum(end - 1 - g * FACTOR, 0), FACTOR - 1)


@triton.jit(do_not_specialize=["rows", "frames", "groups"])
def _mean_kernel(
    x_ptr, weight_ptr, ends_ptr, out_ptr, rows, frames, channels, groups,
    HAS_ENDS: tl.constexpr, FACTOR: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """out (N * groups, C)."""
    r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = (r < rows)[:, None] & (c < channels)[None, :]
    n, g = tl.minimum(r, rows - 1) // groups, r % groups
    last = _last(ends_ptr, n, g, frames, HAS_ENDS, FACTOR)
    total = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for j in tl.static_range(FACTOR):
        t = g * FACTOR + tl.minimum(j, last)
        x = tl.load(x_ptr + (n * frames + t)[:, None] * channels + c[None, :], mask=inside, other=0.0).to(tl.float32)
        total += x * tl.load(weight_ptr + j).to(tl.float32)
    tl.store(out_ptr + r[:, None] * channels + c[None, :], total, mask=inside)


@triton.jit(do_not_specialize=["rows", "frames", "groups"])
def _mean_backward_kernel(
    x_ptr, weight_ptr, ends_ptr, grad_ptr, x_grad_ptr, parts_ptr, rows, frames, channels, groups, rows_of_part,
    HAS_ENDS: tl.constexpr, FACTOR: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """x_grad (N, T, C), and of each part of the rows a part (parts, FACTOR) of the gradient of the weights."""
    part = tl.program_id(0)
    sums = tl.zeros((FACTOR,), tl.float32)
    for start in range(0, rows_of_part, BLOCK_R):
        r = part.to(tl.int64) * rows_of_part + start + tl.arange(0, BLOCK_R)
        n, g = tl.minimum(r, rows - 1) // groups, r % groups
        last = _last(ends_ptr, n, g, frames, HAS_ENDS, FACTOR)
        for first in range(0, channels, BLOCK_C):
            c = first + tl.arange(0, BLOCK_C)
            inside = (r < rows)[:, None] & (c < channels)[None, :]
            grad = tl.load(grad_ptr + r[:, None] * channels + c[None, :], mask=inside, other=0.0).to(tl.float32)
            after = 1.0  # the weights from j on sum up to this
            for j in tl.static_range(FACTOR):
                weight = tl.load(weight_ptr + j).to(tl.float32)
                t = g * FACTOR + tl.minimum(j, last)
                x = tl.load(x_ptr + (n * frames + t)[:, None] * channels + c[None, :], mask=inside, other=0.0)
                sums += tl.where(tl.arange(0, FACTOR) == j, tl.sum(tl.sum(grad * x.to(tl.float32), 1), 0), 0.0)
                share = tl.where(j < last, weight, tl.where(j == last, after, 0.0))
                t = g * FACTOR + j
                place = (n * frames + t)[:, None] * channels + c[None, :]
                tl.store(x_grad_ptr + place, grad * share[:, None], mask=inside & (t < frames)[:, None])
                after -= weight
    tl.store(parts_ptr + part * FACTOR + tl.arange(0, FACTOR), sums)


class Mean(torch.autograd.Function):
    """x (N, T, C), weights (factor,) that sum up to 1, a power of two of them, ends (N,) or None: at T -> (N,
    ceil(T / factor), C) in the type of x."""

    @staticmethod
    def forward(ctx, x: Tensor, weights: Tensor, ends: Tensor | None) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weights, ends)
        num, frames, channels = x.shape
        groups = triton.cdiv(frames, len(weights))
        out = x.new_empty(num, groups, channels)
        if out.numel():
            grid = (triton.cdiv(num * groups, BLOCK_R), triton.cdiv(channels, BLOCK_C))
            _mean_kernel[grid](
                x, weights, ends, out, num * groups, frames, channels, groups, **_options(weights, ends)
            )  # fmt: skip
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weights, ends = ctx.saved_tensors
        grad = grad.contiguous()
        num, frames, channels = x.shape
        rows, x_grad = num * grad.shape[1], torch.empty_like(x)
        rows_of_part = BLOCK_R * triton.cdiv(triton.cdiv(rows, PARTS), BLOCK_R)
        parts = triton.cdiv(rows, rows_of_part) if x.numel() else 0
        sums = torch.empty(parts, len(weights), device=x.device)
        if parts:
            _mean_backward_kernel[(parts,)](
                x, weights, ends, grad, x_grad, sums, rows, frames, channels, grad.shape[1], rows_of_part,
                **_options(weights, ends),
            )  # fmt: skip
        return x_grad, sums.sum(dim=0).to(weights.dtype), None


def _options(weights: Tensor, ends: Tensor | None) -> dict[str, int | bool]:
    return dict(HAS_ENDS=ends is not None, FACTOR=len(weights), BLOCK_R=BLOCK_R, BLOCK_C=BLOCK_C)
