"""The normalizer of the simple joiner lm + am from a product of exponentials, exact where that underflows.

    normalizer[s, t] = log sum_v exp(lm[s, v] + am[t, v]) = log(product[s, t]) + lm_top[s] + am_top[t]

with product = exp(lm - lm_top) @ exp(am - am_top)^T. Cells whose product is lost to underflow are rare, and which they
are is only known on the GPU: a program looks at its own cells and sums up logits where it has to, so that nobody waits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_T, BLOCK_V = 32, 64


@triton.jit(do_not_specialize=["S", "T"])
def _normalizer_kernel(
    product_ptr, lm_ptr, am_ptr, lm_top_ptr, am_top_ptr, out_ptr,
    S, T, V, tiny,
    BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """product (N, S, T), lm (N, S, V), am (N, T, V), tops (N, S) and (N, T) -> out (N, S, T); all contiguous. The
    product of a lost cell becomes infinite."""
    row = tl.program_id(0).to(tl.int64)  # n * S + s
    n = row // S
    t = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)
    there = t < T
    cell = row * T + t
    product = tl.load(product_ptr + cell, mask=there, other=1.0)
    lost = product < tiny
    value = tl.log(tl.where(lost, 1.0, product))
    value += tl.load(lm_top_ptr + row) + tl.load(am_top_ptr + n * T + t, mask=there, other=0.0)
    if tl.sum(lost.to(tl.int32), 0) > 0:
        top = tl.full((BLOCK_T,), -float("inf"), product.dtype)
        total = tl.zeros((BLOCK_T,), product.dtype)
        for start in range(0, V, BLOCK_V):
            v = start + tl.arange(0, BLOCK_V)
            inside = lost[:, None] & (v < V)[None, :]
            lm = tl.load(lm_ptr + row * V + v, mask=v < V, other=0.0)
            am = tl.load(am_ptr + (n * T + t)[:, None] * V + v[None, :], mask=inside, other=0.0)
            x = tl.where(inside, lm[None, :] + am, -float("inf"))
            higher = tl.maximum(top, tl.max(x, 1))
            base = tl.where(higher == -float("inf"), 0.0, higher)
            total = total * tl.exp(top - base) + tl.sum(tl.exp(x - base[:, None]), 1)
            top = higher
        value = tl.where(lost, top + tl.log(total), value)
        tl.store(product_ptr + cell, tl.full((BLOCK_T,), float("inf"), product.dtype), mask=lost & there)
    tl.store(out_ptr + cell, value, mask=there)


@triton.jit(do_not_specialize=["S", "T"])
def _lost_gradient_kernel(
    product_ptr, weight_ptr, normalizer_ptr, lm_ptr, am_ptr, grad_lm_ptr, grad_am_ptr,
    S, T, V,
    BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Adds softmax(lm + am) * weight of lost cells to the gradients (N, S, V) and (N, T, V)."""
    row = tl.program_id(0).to(tl.int64)
    n = row // S
    t = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)
    cell = row * T + t
    lost = tl.load(product_ptr + cell, mask=t < T, other=0.0) == float("inf")
    if tl.sum(lost.to(tl.int32), 0) > 0:
        weight = tl.load(weight_ptr + cell, mask=lost, other=0.0)
        normalizer = tl.load(normalizer_ptr + cell, mask=lost, other=0.0)
        for start in range(0, V, BLOCK_V):
            v = start + tl.arange(0, BLOCK_V)
            inside = lost[:, None] & (v < V)[None, :]
            place = (n * T + t)[:, None] * V + v[None, :]
            lm = tl.load(lm_ptr + row * V + v, mask=v < V, other=0.0)
            am = tl.load(am_ptr + place, mask=inside, other=-float("inf"))
            share = tl.exp(lm[None, :] + am - normalizer[:, None]) * weight[:, None]
            tl.atomic_add(grad_am_ptr + place, share, mask=inside)
            tl.atomic_add(grad_lm_ptr + row * V + v, tl.sum(share, 0), mask=v < V)


def normalizer(product: Tensor, lm: Tensor, am: Tensor, lm_top: Tensor, am_top: Tensor, tiny: float) -> Tensor:
    """(N, S, T), of products (N, S, T), logits (N, S, V) and (N, T, V) and their largest values (N, S, 1), (N, T, 1).

    Where a product is below ``tiny`` it becomes infinite, and the result is computed from the logits.
    """
    batch, rows, frames = product.shape
    out = torch.empty_like(product)
    _normalizer_kernel[(batch * rows, triton.cdiv(frames, BLOCK_T))](
        product, lm.contiguous(), am.contiguous(), lm_top, am_top, out,
        rows, frames, lm.shape[2], tiny, BLOCK_T=BLOCK_T, BLOCK_V=BLOCK_V,
    )  # fmt: skip
    return out


def add_lost_gradient(
    grad_lm: Tensor, grad_am: Tensor, product: Tensor, weight: Tensor, normalizer: Tensor, lm: Tensor, am: Tensor
) -> None:
    """Adds the gradient through the normalizers of lost cells, those with an infinite product."""
    batch, rows, frames = product.shape
    _lost_gradient_kernel[(batch * rows, triton.cdiv(frames, BLOCK_T))](
        product, weight, normalizer, lm.contiguous(), am.contiguous(), grad_lm, grad_am,
        rows, frames, lm.shape[2], BLOCK_T=BLOCK_T, BLOCK_V=BLOCK_V,
    )  # fmt: skip
