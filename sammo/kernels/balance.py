"""The gradient edit of a Balancer in three kernels: moments of blocks of rows, direction of each channel, the edit.

See :func:`sammo.regularize.gradients._balance_direction` for the formulas. Moments are merged by the means and sums of
squared deviations of their parts (Chan, Golub and LeVeque, 1979), so that no large sums are subtracted.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

PARTS = 256  # blocks of rows at most


@triton.jit
def _merge(count, mean, square, more, other_mean, other_square):
    """Counts, means and sums of squared deviations of two parts -> of both."""
    total = count + more
    share = tl.where(total > 0.0, more / tl.maximum(total, 1.0), 0.0)
    gap = other_mean - mean
    return total, mean + gap * share, square + other_square + gap * gap * count * share


@triton.jit(do_not_specialize=["rows", "inner"], do_not_specialize_on_alignment=["x_channel"])
def _moments_kernel(
    x_ptr, mean_ptr, square_ptr, rows, channels, inner, x_outer, x_inner, x_channel, rows_of_part,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared deviations (parts, C) of each channel in each part of the rows. Row m of channel c is at
    (m // inner) * x_outer + (m % inner) * x_inner + c * x_channel."""
    part = tl.program_id(0)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    first = part.to(tl.int64) * rows_of_part
    last = tl.minimum(first + rows_of_part, rows)
    count = tl.zeros((BLOCK_C,), tl.float32)
    mean = tl.zeros((BLOCK_C,), tl.float32)
    square = tl.zeros((BLOCK_C,), tl.float32)
    for start in range(0, rows_of_part, BLOCK_M):
        m = first + start + tl.arange(0, BLOCK_M)
        place = (m // inner * x_outer + m % inner * x_inner)[:, None] + (c * x_channel)[None, :]
        inside = (m < last)[:, None] & (c < channels)[None, :]
        x = tl.load(x_ptr + place, mask=inside, other=0.0).to(tl.float32)
        here = tl.sum(inside.to(tl.float32), 0)
        own = tl.sum(x, 0) / tl.maximum(here, 1.0)
        apart = tl.where(inside, x - own[None, :], 0.0)
        count, mean, square = _merge(count, mean, square, here, own, tl.sum(apart * apart, 0))
    tl.store(mean_ptr + part * channels + c, mean, mask=c < channels)
    tl.store(square_ptr + part * channels + c, square, mask=c < channels)


@triton.jit(do_not_specialize=["parts", "rows"])
def _direction_kernel(
    mean_ptr, square_ptr, out_ptr, parts, rows, channels, rows_of_part,
    min_mean, max_mean, min_rms, max_rms, grad_scale, tiny,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    """out (3, C): mean, base, slope, with which the direction is base + slope * (x - mean)."""
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = c < channels
    count = tl.zeros((BLOCK_C,), tl.float32)
    mean = tl.zeros((BLOCK_C,), tl.float32)
    square = tl.zeros((BLOCK_C,), tl.float32)
    for part in range(0, parts):
        own = tl.load(mean_ptr + part * channels + c, mask=inside, other=0.0)
        apart = tl.load(square_ptr + part * channels + c, mask=inside, other=0.0)
        here = tl.zeros((BLOCK_C,), tl.float32) + tl.minimum(rows_of_part, rows - part * rows_of_part)
        count, mean, square = _merge(count, mean, square, here, own, apart)
    var = square / count
    power = var + mean * mean
    std = tl.sqrt(tl.maximum(var, tiny))
    rms = tl.sqrt(tl.maximum(power, tiny))
    ratio = mean / std
    side = tl.where(ratio > max_mean, 1.0, tl.where(ratio < min_mean, -1.0, 0.0))
    size = tl.where(rms < min_rms, 1.0, tl.where(rms > max_rms, -1.0, 0.0))
    slope = tl.where(var > tiny, -side * ratio / (std * std), 0.0)
    base = side / std
    shrink = tl.where(power > tiny, -size / (rms * rms), 0.0)
    slope += shrink
    base += shrink * mean
    length = tl.sqrt(base * base + slope * slope * var)
    scale = grad_scale / tl.maximum(length / count, tiny) / count
    tl.store(out_ptr + c, mean, mask=inside)
    tl.store(out_ptr + channels + c, base * scale, mask=inside)
    tl.store(out_ptr + 2 * channels + c, slope * scale, mask=inside)


@triton.jit(do_not_specialize=["rows", "inner"], do_not_specialize_on_alignment=["x_channel", "g_channel", "o_channel"])
def _edit_kernel(
    x_ptr, grad_ptr, direction_ptr, out_ptr, rows, channels, inner,
    x_outer, x_inner, x_channel, g_outer, g_inner, g_channel, o_outer, o_inner, o_channel,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """out = grad + |grad| * direction."""
    m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    outer, within = (m // inner)[:, None], (m % inner)[:, None]
    channel = c[None, :]
    inside = (m < rows)[:, None] & (channel < channels)
    x = tl.load(x_ptr + outer * x_outer + within * x_inner + channel * x_channel, mask=inside, other=0.0)
    grad = tl.load(grad_ptr + outer * g_outer + within * g_inner + channel * g_channel, mask=inside, other=0.0)
    mean = tl.load(direction_ptr + c, mask=c < channels, other=0.0)[None, :]
    base = tl.load(direction_ptr + channels + c, mask=c < channels, other=0.0)[None, :]
    slope = tl.load(direction_ptr + 2 * channels + c, mask=c < channels, other=0.0)[None, :]
    grad = grad.to(tl.float32)
    edited = grad + tl.abs(grad) * (base + slope * (x.to(tl.float32) - mean))
    tl.store(out_ptr + outer * o_outer + within * o_inner + channel * o_channel, edited, mask=inside)


def balance(
    x: Tensor,
    grad: Tensor,
    channel_dim: int,
    limits: tuple[float, float, float, float],
    grad_scale: float,
    tiny: float,
    in_place: bool = False,
) -> Tensor:
    """The edited gradient, like ``grad`` or, ``in_place``, written there. x and grad: (N, T, C) and 2, or (N, C, T, F) and
    1, of any strides; three dimensions only for ``in_place``."""
    shape = grad.shape
    x, grad = _three(x, channel_dim), _three(grad, channel_dim)
    out = grad if in_place else torch.empty_like(grad)
    channels = x.shape[2]
    rows, inner = x.shape[0] * x.shape[1], x.shape[1]
    if not rows * channels:
        return out.reshape(shape)
    last = x.stride(2) == 1
    blocks = {"BLOCK_M": 32, "BLOCK_C": 64} if last else {"BLOCK_M": 512, "BLOCK_C": 4}
    rows_of_part = max(blocks["BLOCK_M"], triton.next_power_of_2(triton.cdiv(rows, PARTS)))
    parts = triton.cdiv(rows, rows_of_part)
    mean, square = (torch.empty(parts, channels, device=x.device) for _ in range(2))
    columns = triton.cdiv(channels, blocks["BLOCK_C"])
    _moments_kernel[(parts, columns)](
        x, mean, square, rows, channels, inner, *x.stride(), rows_of_part, **blocks
    )  # fmt: skip
    direction = torch.empty(3, channels, device=x.device)
    _direction_kernel[(triton.cdiv(channels, 64),)](
        mean, square, direction, parts, rows, channels, rows_of_part, *limits, grad_scale, tiny, BLOCK_C=64
    )
    _edit_kernel[(triton.cdiv(rows, blocks["BLOCK_M"]), columns)](
        x, grad, direction, out, rows, channels, inner, *x.stride(), *grad.stride(), *out.stride(), **blocks
    )  # fmt: skip
    return (out if channel_dim == len(shape) - 1 else out.transpose(1, 2)).reshape(shape)


def _three(x: Tensor, channel_dim: int) -> Tensor:
    """(outer, inner, C)."""
    if channel_dim == x.ndim - 1:
        return x if x.ndim == 3 else x.flatten(0, -3) if x.ndim > 3 else x.unsqueeze(0)
    assert channel_dim == 1
    return x.flatten(2).transpose(1, 2)
