"""BiasNorm and the gated RMS norm, one kernel forward and one backward each. A program works on whole rows (frames)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

PARTS = 512  # programs of a backward pass at most, and rows of the partial sums for the parameters


@triton.jit(do_not_specialize=["rows"])
def _bias_norm_kernel(
    x_ptr, bias_ptr, log_scale_ptr, y_ptr, inverse_ptr, rows, channels, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr
):  # fmt: skip
    """y = x * inverse * exp(log_scale), inverse (rows,) = 1 / rms(x - bias)."""
    r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    c = tl.arange(0, BLOCK_C)
    inside = (r < rows)[:, None] & (c < channels)[None, :]
    place = r[:, None] * channels + c[None, :]
    x = tl.load(x_ptr + place, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + c, mask=c < channels, other=0.0).to(tl.float32)
    centered = tl.where(inside, x - bias[None, :], 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(centered * centered, 1) / channels)
    y = x * (inverse * tl.exp(tl.load(log_scale_ptr).to(tl.float32)))[:, None]
    tl.store(y_ptr + place, y, mask=inside)
    tl.store(inverse_ptr + r, inverse, mask=r < rows)


@triton.jit(do_not_specialize=["rows"])
def _bias_norm_backward_kernel(
    x_ptr, bias_ptr, log_scale_ptr, inverse_ptr, grad_ptr, x_grad_ptr, bias_parts_ptr, scale_parts_ptr,
    rows, channels, rows_of_part, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(0)
    first = part.to(tl.int64) * rows_of_part
    c = tl.arange(0, BLOCK_C)
    bias = tl.load(bias_ptr + c, mask=c < channels, other=0.0).to(tl.float32)
    factor = tl.exp(tl.load(log_scale_ptr).to(tl.float32))
    bias_sum = tl.zeros((BLOCK_C,), tl.float32)
    scale_sum = tl.zeros((BLOCK_R,), tl.float32)
    for start in range(0, rows_of_part, BLOCK_R):
        r = first + start + tl.arange(0, BLOCK_R)
        inside = (r < rows)[:, None] & (c < channels)[None, :]
        place = r[:, None] * channels + c[None, :]
        x = tl.load(x_ptr + place, mask=inside, other=0.0).to(tl.float32)
        grad = tl.load(grad_ptr + place, mask=inside, other=0.0).to(tl.float32)
        inverse = tl.load(inverse_ptr + r, mask=r < rows, other=0.0)
        along = tl.sum(grad * x, 1) * inverse * factor
        # d scale / d x = -scale * (x - bias) / (C rms^2)
        pull = tl.where(inside, x - bias[None, :], 0.0) * (along * inverse * inverse * (-1.0 / channels))[:, None]
        tl.store(x_grad_ptr + place, pull + grad * (inverse * factor)[:, None], mask=inside)
        bias_sum -= tl.sum(pull, 0)
        scale_sum += along
    tl.store(bias_parts_ptr + part * channels + c, bias_sum, mask=c < channels)
    tl.store(scale_parts_ptr + part, tl.sum(scale_sum, 0))


class BiasNorm(torch.autograd.Function):
    """x (..., C), bias (C,), log_scale () -> (..., C) in the wider type of x and bias."""

    @staticmethod
    def forward(ctx, x: Tensor, bias: Tensor, log_scale: Tensor) -> Tensor:
        x = x.contiguous()
        channels = x.shape[-1]
        rows = x.numel() // channels
        y = torch.empty_like(x, dtype=torch.promote_types(x.dtype, bias.dtype))
        inverse = torch.empty(rows, device=x.device)
        blocks = _blocks(channels)
        grid = (triton.cdiv(rows, blocks["BLOCK_R"]),)
        _bias_norm_kernel[grid](x, bias, log_scale, y, inverse, rows, channels, **blocks)
        ctx.save_for_backward(x, bias, log_scale, inverse)
        return y

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, bias, log_scale, inverse = ctx.saved_tensors
        channels, rows, grad = x.shape[-1], len(inverse), grad.contiguous()
        blocks = _blocks(channels)
        parts, rows_of_part = _parts(rows, blocks["BLOCK_R"])
        x_grad = torch.empty_like(x)
        bias_parts, scale_parts = torch.empty(parts, channels, device=x.device), torch.empty(parts, device=x.device)
        _bias_norm_backward_kernel[(parts,)](
            x, bias, log_scale, inverse, grad, x_grad, bias_parts, scale_parts, rows, channels, rows_of_part, **blocks
        )
        return x_grad, bias_parts.sum(dim=0).to(bias.dtype), scale_parts.sum().to(log_scale.dtype)


@triton.jit(do_not_specialize=["rows", "frames", "z_n"])
def _gated_norm_kernel(
    y_ptr, z_ptr, weight_ptr, out_ptr, inverse_ptr, rows, channels, frames, z_n, z_t, eps,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """out = gated / rms(gated) * weight with gated = y * silu(z)."""
    r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    c = tl.arange(0, BLOCK_C)
    inside = (r < rows)[:, None] & (c < channels)[None, :]
    place = r[:, None] * channels + c[None, :]
    y = tl.load(y_ptr + place, mask=inside, other=0.0).to(tl.float32)
    gate = (r // frames * z_n + r % frames * z_t)[:, None] + c[None, :]
    z = tl.load(z_ptr + gate, mask=inside, other=0.0).to(tl.float32)
    gated = y * z / (1.0 + tl.exp(-z))
    inverse = 1.0 / tl.sqrt(tl.sum(gated * gated, 1) / channels + eps)
    weight = tl.load(weight_ptr + c, mask=c < channels, other=0.0).to(tl.float32)
    tl.store(out_ptr + place, gated * inverse[:, None] * weight[None, :], mask=inside)
    tl.store(inverse_ptr + r, inverse, mask=r < rows)


@triton.jit(do_not_specialize=["rows", "frames", "z_n"])
def _gated_norm_backward_kernel(
    y_ptr, z_ptr, weight_ptr, inverse_ptr, grad_ptr, y_grad_ptr, z_grad_ptr, parts_ptr,
    rows, channels, frames, z_n, z_t, rows_of_part, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(0)
    first = part.to(tl.int64) * rows_of_part
    c = tl.arange(0, BLOCK_C)
    weight = tl.load(weight_ptr + c, mask=c < channels, other=0.0).to(tl.float32)
    total = tl.zeros((BLOCK_C,), tl.float32)
    for start in range(0, rows_of_part, BLOCK_R):
        r = first + start + tl.arange(0, BLOCK_R)
        inside = (r < rows)[:, None] & (c < channels)[None, :]
        place = r[:, None] * channels + c[None, :]
        y = tl.load(y_ptr + place, mask=inside, other=0.0).to(tl.float32)
        gate = (r // frames * z_n + r % frames * z_t)[:, None] + c[None, :]
        z = tl.load(z_ptr + gate, mask=inside, other=0.0).to(tl.float32)
        grad = tl.load(grad_ptr + place, mask=inside, other=0.0).to(tl.float32)
        inverse = tl.load(inverse_ptr + r, mask=r < rows, other=0.0)[:, None]
        share = 1.0 / (1.0 + tl.exp(-z))
        normed = y * z * share * inverse
        total += tl.sum(grad * normed, 0)
        grad *= weight[None, :]
        grad = (grad - normed * (tl.sum(grad * normed, 1) / channels)[:, None]) * inverse
        tl.store(y_grad_ptr + place, grad * z * share, mask=inside)
        tl.store(z_grad_ptr + place, grad * y * share * (1.0 + z * (1.0 - share)), mask=inside)
    tl.store(parts_ptr + part * channels + c, total, mask=c < channels)


class GatedRMSNorm(torch.autograd.Function):
    """y (N, T, C), z (N, T, C) with channels side by side in memory, weight (C,) -> (N, T, C) in the type of y."""

    @staticmethod
    def forward(ctx, y: Tensor, z: Tensor, weight: Tensor, eps: float) -> Tensor:
        y, z = y.contiguous(), z if z.stride(-1) == 1 else z.contiguous()
        _, frames, channels = y.shape
        rows = y.numel() // channels
        out, inverse = torch.empty_like(y), torch.empty(rows, device=y.device)
        blocks = _blocks(channels)
        _gated_norm_kernel[(triton.cdiv(rows, blocks["BLOCK_R"]),)](
            y, z, weight, out, inverse, rows, channels, frames, *z.stride()[:2], eps, **blocks
        )
        ctx.save_for_backward(y, z, weight, inverse)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        y, z, weight, inverse = ctx.saved_tensors
        (_, frames, channels), rows, grad = y.shape, len(inverse), grad.contiguous()
        blocks = _blocks(channels)
        parts, rows_of_part = _parts(rows, blocks["BLOCK_R"])
        y_grad, z_grad = torch.empty_like(y), z.new_empty(z.shape)
        sums = torch.empty(parts, channels, device=y.device)
        _gated_norm_backward_kernel[(parts,)](
            y, z, weight, inverse, grad, y_grad, z_grad, sums,
            rows, channels, frames, *z.stride()[:2], rows_of_part, **blocks,
        )  # fmt: skip
        return y_grad, z_grad, sums.sum(dim=0).to(weight.dtype), None


def _blocks(channels: int) -> dict[str, int]:
    """Rows and channels of a block, of about 4096 values."""
    width = triton.next_power_of_2(channels)
    return {"BLOCK_R": max(1, min(32, 4096 // width)), "BLOCK_C": width}


def _parts(rows: int, block: int) -> tuple[int, int]:
    """Programs of a backward pass, and rows of each."""
    size = block * triton.cdiv(triton.cdiv(rows, PARTS), block)
    return triton.cdiv(rows, size), size
