"""silu(causal depthwise convolution) of a few taps over (N, T, C), one kernel forward and one backward."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_T, BLOCK_C = 32, 64


@triton.jit
def _input(
    x_ptr, past_ptr, n, u, c, frames, channels, x_n, x_t, past_n, past_t, K: tl.constexpr, HAS_PAST: tl.constexpr
):  # fmt: skip
    """Frames u (T',) and channels c of the input, (T', C'); those before the first are the past's, or zero."""
    inside = ((u >= 0) & (u < frames))[:, None] & (c < channels)[None, :]
    x = tl.load(x_ptr + n * x_n + u[:, None] * x_t + c[None, :], mask=inside, other=0.0).to(tl.float32)
    if HAS_PAST:
        before = ((u < 0) & (u >= 1 - K))[:, None] & (c < channels)[None, :]
        place = n * past_n + (u + (K - 1))[:, None] * past_t + c[None, :]
        x += tl.load(past_ptr + place, mask=before, other=0.0).to(tl.float32)
    return x


@triton.jit(do_not_specialize=["frames", "x_n"])
def _conv_kernel(
    x_ptr, past_ptr, weight_ptr, bias_ptr, y_ptr, frames, channels, x_n, x_t, past_n, past_t,
    K: tl.constexpr, HAS_PAST: tl.constexpr, HAS_BIAS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """y (N, T, C) contiguous."""
    n = tl.program_id(0).to(tl.int64)
    t = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    if HAS_BIAS:
        total += tl.load(bias_ptr + c, mask=c < channels, other=0.0).to(tl.float32)[None, :]
    for k in tl.static_range(K):
        weight = tl.load(weight_ptr + c * K + k, mask=c < channels, other=0.0).to(tl.float32)
        x = _input(x_ptr, past_ptr, n, t - (K - 1) + k, c, frames, channels, x_n, x_t, past_n, past_t, K, HAS_PAST)
        total += weight[None, :] * x
    y = total / (1.0 + tl.exp(-total))
    inside = (t < frames)[:, None] & (c < channels)[None, :]
    tl.store(y_ptr + (n * frames + t[:, None]) * channels + c[None, :], y, mask=inside)


@triton.jit(do_not_specialize=["frames", "x_n"])
def _conv_backward_kernel(
    x_ptr, past_ptr, weight_ptr, bias_ptr, grad_ptr, x_grad_ptr, past_grad_ptr, weight_parts_ptr, bias_parts_ptr,
    frames, channels, x_n, x_t, past_n, past_t, grad_n, grad_t,
    K: tl.constexpr, HAS_PAST: tl.constexpr, HAS_BIAS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradients of the input (x, past) and, of each block of frames, parts of those of weight (parts, C, K) and bias."""
    n = tl.program_id(0).to(tl.int64)
    part = n * tl.num_programs(1) + tl.program_id(1)
    u = tl.program_id(1) * BLOCK_T - (K - 1) + tl.arange(0, BLOCK_T)  # frames of the input
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    here = _input(x_ptr, past_ptr, n, u, c, frames, channels, x_n, x_t, past_n, past_t, K, HAS_PAST)
    x_grad = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    for j in tl.static_range(K):
        t = u + j  # frames of the output that see it, by tap K - 1 - j
        total = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
        if HAS_BIAS:
            total += tl.load(bias_ptr + c, mask=c < channels, other=0.0).to(tl.float32)[None, :]
        for k in tl.static_range(K):
            weight = tl.load(weight_ptr + c * K + k, mask=c < channels, other=0.0).to(tl.float32)
            x = _input(x_ptr, past_ptr, n, t - (K - 1) + k, c, frames, channels, x_n, x_t, past_n, past_t, K, HAS_PAST)
            total += weight[None, :] * x
        share = 1.0 / (1.0 + tl.exp(-total))
        inside = ((t >= 0) & (t < frames))[:, None] & (c < channels)[None, :]
        grad = tl.load(grad_ptr + n * grad_n + t[:, None] * grad_t + c[None, :], mask=inside, other=0.0).to(tl.float32)
        grad *= share * (1.0 + total * (1.0 - share))
        weight = tl.load(weight_ptr + c * K + (K - 1 - j), mask=c < channels, other=0.0).to(tl.float32)
        x_grad += weight[None, :] * grad
        place = (part * channels + c) * K + (K - 1 - j)
        tl.store(weight_parts_ptr + place, tl.sum(grad * here, 0), mask=c < channels)
        if HAS_BIAS and j == 0:
            tl.store(bias_parts_ptr + part * channels + c, tl.sum(grad, 0), mask=c < channels)
    inside = ((u >= 0) & (u < frames))[:, None] & (c < channels)[None, :]
    tl.store(x_grad_ptr + (n * frames + u[:, None]) * channels + c[None, :], x_grad, mask=inside)
    if HAS_PAST:
        before = (u < 0)[:, None] & (c < channels)[None, :]
        tl.store(past_grad_ptr + (n * (K - 1) + u[:, None] + (K - 1)) * channels + c[None, :], x_grad, mask=before)


class SiluConv(torch.autograd.Function):
    """x (N, T, C) with channels side by side in memory, weight (C, 1, K), past (N, K - 1, C) or None, bias (C,) or None
    -> (N, T, C) in the type of x."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, past: Tensor | None, bias: Tensor | None) -> Tensor:
        x = x if x.stride(2) == 1 else x.contiguous()
        past = None if past is None else past.contiguous()
        ctx.save_for_backward(x, weight, past, bias)
        num, frames, channels = x.shape
        y = x.new_empty(x.shape)
        grid = (num, triton.cdiv(frames, BLOCK_T), triton.cdiv(channels, BLOCK_C))
        _conv_kernel[grid](
            x, past, weight, bias, y, frames, channels, *_strides(x), *_strides(past), **_options(weight, past, bias)
        )
        return y

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weight, past, bias = ctx.saved_tensors
        grad = grad if grad.stride(2) == 1 else grad.contiguous()
        num, frames, channels = x.shape
        taps = weight.shape[-1]
        grid = (num, triton.cdiv(frames + taps - 1, BLOCK_T), triton.cdiv(channels, BLOCK_C))
        x_grad = x.new_empty(x.shape)
        past_grad = None if past is None else torch.empty_like(past)
        parts = torch.empty(num * grid[1], channels, taps, device=x.device)
        bias_parts = None if bias is None else torch.empty(num * grid[1], channels, device=x.device)
        _conv_backward_kernel[grid](
            x, past, weight, bias, grad, x_grad, past_grad, parts, bias_parts,
            frames, channels, *_strides(x), *_strides(past), *_strides(grad),
            **_options(weight, past, bias),
        )  # fmt: skip
        weight_grad = parts.sum(dim=0).view(weight.shape).to(weight.dtype)
        return x_grad, weight_grad, past_grad, None if bias_parts is None else bias_parts.sum(dim=0).to(bias.dtype)


def _strides(x: Tensor | None) -> tuple[int, int]:
    return (0, 0) if x is None else (x.stride(0), x.stride(1))


def _options(weight: Tensor, past: Tensor | None, bias: Tensor | None) -> dict[str, int | bool]:
    return dict(
        K=weight.shape[-1], HAS_PAST=past is not None, HAS_BIAS=bias is not None, BLOCK_T=BLOCK_T, BLOCK_C=BLOCK_C
    )
