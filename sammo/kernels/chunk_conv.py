"""Zipformer's chunk-wise causal convolution over (N, T, C): one kernel forward, two backward.

    y[t] = bias_c + sum_j causal[j] x[t - P + j] + scale[t] (bias_w + sum_k within[k] x[t - P + k])

with P = K // 2, the second sum over frames of t's own chunk, and scale[t] = 1 + left[p] + right[K - 1 - q] for the frame p
after the first and q before the last of its chunk, where these are below K.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_T, BLOCK_C = 64, 32


@triton.jit
def _edges(ends_ptr, n, t, chunk, HAS_ENDS: tl.constexpr):
    """Frames from the first and to the last of the chunk of t."""
    p = t % chunk
    if HAS_ENDS:  # an utterance is one chunk, to its own end
        return t, tl.load(ends_ptr + n).to(tl.int32) - 1 - t
    return p, chunk - 1 - p


@triton.jit
def _scale(edge_ptr, ends_ptr, n, t, c, chunk, channels, K: tl.constexpr, HAS_ENDS: tl.constexpr):
    """(T', C') factors of the convolution within the chunk."""
    p, q = _edges(ends_ptr, n, t, chunk, HAS_ENDS)
    there = (c < channels)[None, :]
    at_left = ((p >= 0) & (p < K))[:, None] & there
    left = tl.load(edge_ptr + c[None, :] * K + p[:, None], mask=at_left, other=0.0).to(tl.float32)
    at_right = ((q >= 0) & (q < K))[:, None] & there
    place = (channels + c[None, :]) * K + (K - 1 - q)[:, None]
    return 1.0 + left + tl.load(edge_ptr + place, mask=at_right, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["frames", "chunk"])
def _forward_kernel(
    x_ptr, causal_ptr, causal_bias_ptr, within_ptr, within_bias_ptr, edge_ptr, ends_ptr, y_ptr, frames, channels, chunk,
    K: tl.constexpr, HAS_ENDS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0).to(tl.int64)
    t = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    there = c < channels
    y = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    y += tl.load(causal_bias_ptr + c, mask=there, other=0.0).to(tl.float32)[None, :]
    inner = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    inner += tl.load(within_bias_ptr + c, mask=there, other=0.0).to(tl.float32)[None, :]
    for k in range(0, K):
        u = t - K // 2 + k
        inside = ((u >= 0) & (u < frames))[:, None] & there[None, :]
        x = tl.load(x_ptr + (n * frames + u[:, None]) * channels + c[None, :], mask=inside, other=0.0).to(tl.float32)
        same = (u >= t // chunk * chunk) & (u < t // chunk * chunk + chunk)
        within = tl.load(within_ptr + c * K + k, mask=there, other=0.0).to(tl.float32)
        inner += tl.where(same[:, None], x * within[None, :], 0.0)
        early = k <= K // 2
        causal = tl.load(causal_ptr + c * (K // 2 + 1) + k, mask=there & early, other=0.0).to(tl.float32)
        y += x * causal[None, :]
    y += inner * _scale(edge_ptr, ends_ptr, n, t, c, chunk, channels, K, HAS_ENDS)
    inside = (t < frames)[:, None] & there[None, :]
    tl.store(y_ptr + (n * frames + t[:, None]) * channels + c[None, :], y, mask=inside)


@triton.jit(do_not_specialize=["frames", "chunk"])
def _backward_kernel(
    x_ptr, grad_ptr, causal_ptr, within_ptr, edge_ptr, ends_ptr, x_grad_ptr, parts_ptr, frames, channels, chunk,
    K: tl.constexpr, HAS_ENDS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The gradient of x and, of each block of frames, a part (2 K + 2, C) of those of the causal weights (K rows, of which
    the first K // 2 + 1 are used), of the weights within chunks (K rows), and of the two biases."""
    n = tl.program_id(0).to(tl.int64)
    part = n * tl.num_programs(1) + tl.program_id(1)
    u = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)  # frames of x
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    there = c < channels
    here = (u < frames)[:, None] & there[None, :]
    x = tl.load(x_ptr + (n * frames + u[:, None]) * channels + c[None, :], mask=here, other=0.0).to(tl.float32)
    x_grad = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    sums = parts_ptr + part * (2 * K + 2) * channels + c
    for k in range(0, K):
        t = u + K // 2 - k  # frames of y that see u by tap k
        inside = ((t >= 0) & (t < frames))[:, None] & here
        grad = tl.load(grad_ptr + (n * frames + t[:, None]) * channels + c[None, :], mask=inside, other=0.0)
        grad = grad.to(tl.float32)
        same = (u // chunk == t // chunk) & (t >= 0)
        scaled = grad * _scale(edge_ptr, ends_ptr, n, t, c, chunk, channels, K, HAS_ENDS)
        inner = tl.where(same[:, None], scaled, 0.0)
        within = tl.load(within_ptr + c * K + k, mask=there, other=0.0).to(tl.float32)
        early = k <= K // 2
        causal = tl.load(causal_ptr + c * (K // 2 + 1) + k, mask=there & early, other=0.0).to(tl.float32)
        x_grad += inner * within[None, :] + grad * causal[None, :]
        tl.store(sums + k * channels, tl.sum(grad * x, 0), mask=there)
        tl.store(sums + (K + k) * channels, tl.sum(inner * x, 0), mask=there)
        if k == K // 2:  # where t = u
            tl.store(sums + 2 * K * channels, tl.sum(grad, 0), mask=there)
            tl.store(sums + (2 * K + 1) * channels, tl.sum(scaled, 0), mask=there)
    tl.store(x_grad_ptr + (n * frames + u[:, None]) * channels + c[None, :], x_grad, mask=here)


@triton.jit(do_not_specialize=["frames", "chunk", "chunks"])
def _edge_kernel(
    x_ptr, grad_ptr, within_ptr, within_bias_ptr, ends_ptr, parts_ptr, frames, channels, chunk, chunks,
    K: tl.constexpr, HAS_ENDS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Of each utterance a part (2, K, C) of the gradient of the factors: each program one of them, over all chunks."""
    n = tl.program_id(0).to(tl.int64)
    side, row = tl.program_id(1) // K, tl.program_id(1) % K
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    there = c < channels
    total = tl.zeros((BLOCK_C,), tl.float32)
    bias = tl.load(within_bias_ptr + c, mask=there, other=0.0).to(tl.float32)
    last = chunk - 1
    if HAS_ENDS:
        last = tl.load(ends_ptr + n).to(tl.int32) - 1
    place = tl.where(side == 0, row, last - (K - 1 - row))  # of the frame in its chunk
    for start in range(0, chunks, BLOCK_T):
        index = start + tl.arange(0, BLOCK_T)
        t = index * chunk + place
        valid = (index < chunks) & (place >= 0) & (place < chunk) & (t < frames)
        inside = valid[:, None] & there[None, :]
        grad = tl.load(grad_ptr + (n * frames + t[:, None]) * channels + c[None, :], mask=inside, other=0.0)
        inner = tl.zeros((BLOCK_T, BLOCK_C), tl.float32) + bias[None, :]
        for k in range(0, K):
            u = t - K // 2 + k
            same = (u >= index * chunk) & (u < index * chunk + chunk) & (u < frames)
            x = tl.load(
                x_ptr + (n * frames + u[:, None]) * channels + c[None, :], mask=inside & same[:, None], other=0.0
            )
            inner += x.to(tl.float32) * tl.load(within_ptr + c * K + k, mask=there, other=0.0).to(tl.float32)[None, :]
        total += tl.sum(grad.to(tl.float32) * inner, 0)
    tl.store(parts_ptr + ((n * 2 + side) * K + row) * channels + c, total, mask=there)


class ChunkConv(torch.autograd.Function):
    """x (N, T, C), causal weight (C, 1, K // 2 + 1) and bias (C,), weight within chunks (C, 1, K) and bias, edge scale
    (2, C, K), frames per chunk, ends (N,) of utterances that are one chunk each or None -> (N, T, C)."""

    @staticmethod
    def forward(ctx, x, causal, causal_bias, within, within_bias, edge, chunk, ends):
        x = x.contiguous()
        num, frames, channels = x.shape
        y = torch.empty_like(x)
        ctx.save_for_backward(x, causal, causal_bias, within, within_bias, edge, ends)
        ctx.chunk = chunk
        grid = (num, triton.cdiv(frames, BLOCK_T), triton.cdiv(channels, BLOCK_C))
        _forward_kernel[grid](
            x,
            causal,
            causal_bias,
            within,
            within_bias,
            edge,
            ends,
            y,
            frames,
            channels,
            chunk,
            **_options(within, ends),
        )
        return y

    @staticmethod
    def backward(ctx, grad):
        x, causal, causal_bias, within, within_bias, edge, ends = ctx.saved_tensors
        grad, taps = grad.contiguous(), within.shape[-1]
        num, frames, channels = x.shape
        grid = (num, triton.cdiv(frames, BLOCK_T), triton.cdiv(channels, BLOCK_C))
        options = _options(within, ends)
        x_grad = torch.empty_like(x)
        parts = torch.empty(num * grid[1], 2 * taps + 2, channels, device=x.device)
        _backward_kernel[grid](
            x, grad, causal, within, edge, ends, x_grad, parts, frames, channels, ctx.chunk, **options
        )
        edges = torch.empty(num, 2, taps, channels, device=x.device)
        _edge_kernel[(num, 2 * taps, grid[2])](
            x, grad, within, within_bias, ends, edges, frames, channels, ctx.chunk, triton.cdiv(frames, ctx.chunk),
            **{**options, "BLOCK_T": 16},
        )  # fmt: skip
        sums = parts.sum(dim=0)
        by_causal, by_within = sums[: causal.shape[-1]], sums[taps : 2 * taps]
        return (
            x_grad,
            by_causal.t().unsqueeze(1).to(causal.dtype),
            sums[2 * taps].to(causal_bias.dtype),
            by_within.t().unsqueeze(1).to(within.dtype),
            sums[2 * taps + 1].to(within_bias.dtype),
            edges.sum(dim=0).transpose(1, 2).to(edge.dtype),
            None,
            None,
        )


def _options(within: Tensor, ends: Tensor | None) -> dict[str, int | bool]:
    return dict(K=within.shape[-1], HAS_ENDS=ends is not None, BLOCK_T=BLOCK_T, BLOCK_C=BLOCK_C)
