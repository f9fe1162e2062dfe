"""Linear layers under autocast on a GPU: weights cast all at once, their gradients summed up in float32.

autocast casts every weight in a kernel of its own, and its gradient back in another, a thousand small kernels a step.
Here :func:`half_weights` makes the copies of a whole model by a few kernels, and the product that gives a weight's
gradient writes it in the type of the weight, which also spares it the rounding in between.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sammo.kernels import by_triton

ALIGNMENT = 64  # values: matrices that begin elsewhere, as after 3266 biases, cuBLAS multiplies by its slow kernels
_copies: dict[int, tuple[Tensor, Tensor]] = {}  # id of a weight -> itself, its copy


def compute_dtype(x: Tensor) -> torch.dtype | None:
    """The type that autocast computes products of x in; None where it does not, or this project's kernels do not run."""
    if not by_triton(x) or not torch.is_autocast_enabled(x.device.type):
        return None
    return torch.get_autocast_dtype(x.device.type)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., C_in), weight (C_out, C_in), bias (C_out,) -> (..., C_out)."""
    dtype = compute_dtype(x)
    if dtype is None:
        return F.linear(x, weight, bias)
    return HalfLinear.apply(x, weight, bias, half(weight, dtype), None if bias is None else half(bias, dtype))


class Linear(nn.Linear):
    """The module around :func:`linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


@contextmanager
def half_weights(module: nn.Module) -> Iterator[None]:
    """Within, :func:`half` finds the weights of the linear layers of ``module``; does nothing outside of autocast."""
    weights = [p for m in module.modules() if isinstance(m, nn.Linear) for p in (m.weight, m.bias) if p is not None]
    dtype = compute_dtype(weights[0]) if weights and not _copies else None
    if dtype is None:
        yield
        return
    sizes = [-(-weight.numel() // ALIGNMENT) * ALIGNMENT for weight in weights]
    parts = torch.empty(sum(sizes), dtype=dtype, device=weights[0].device).split(sizes)
    copies = [part[: weight.numel()].view(weight.shape) for part, weight in zip(parts, weights)]
    with torch.no_grad():
        torch._foreach_copy_(copies, weights)
    _copies.update((id(weight), (weight, copy)) for weight, copy in zip(weights, copies))
    try:
        yield
    finally:
        _copies.clear()


def half(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy of ``weight`` in ``dtype`` that is not to be changed."""
    known = _copies.get(id(weight))
    return known[1] if known is not None and known[1].dtype == dtype else weight.detach().to(dtype)


def product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """a @ b of matrices in half precision, (M, K) and (K, N), written in ``dtype``, float32 or theirs."""
    if dtype == a.dtype:
        return a @ b
    return torch.mm(a, b, out_dtype=dtype) if a.is_cuda and a.numel() else (a @ b).to(dtype)


class HalfLinear(torch.autograd.Function):
    """x (..., C_in) of any type, weight and bias, their copies in half precision -> (..., C_out) of the copies' type."""

    @staticmethod
    def forward(ctx, x, weight, bias, half_weight, half_bias):
        half_x = x.to(half_weight.dtype)
        ctx.save_for_backward(half_x, half_weight)
        ctx.types = x.dtype, weight.dtype, None if bias is None else bias.dtype
        return F.linear(half_x, half_weight, half_bias)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        x_dtype, weight_dtype, bias_dtype = ctx.types
        flat = grad.reshape(-1, weight.shape[0])
        x_grad = weight_grad = bias_grad = None
        if ctx.needs_input_grad[0]:
            x_grad = product(flat, weight, x_dtype).view(x.shape)
        if ctx.needs_input_grad[1]:
            weight_grad = product(flat.t(), x.reshape(-1, weight.shape[1]), weight_dtype)
        if bias_dtype is not None and ctx.needs_input_grad[2]:
            bias_grad = flat.sum(dim=0, dtype=bias_dtype)
        return x_grad, weight_grad, bias_grad, None, None
