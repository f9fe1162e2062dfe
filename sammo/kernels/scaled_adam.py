"""The two passes of ScaledAdam over a block of values as one kernel each: sums of every row, and the step."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

BLOCK_R = 8  # rows of a program


@triton.jit
def _sums_kernel(
    grad_ptr, value_ptr, grad_sq_ptr, dot_ptr, value_sq_ptr, rows,
    WITH_SQUARES: tl.constexpr, WIDTH: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    place = r.to(tl.int64)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    inside = (r < rows)[:, None]
    grad = tl.load(grad_ptr + place, mask=inside, other=0.0)
    value = tl.load(value_ptr + place, mask=inside, other=0.0)
    tl.store(grad_sq_ptr + r, tl.sum(grad * grad, 1), mask=r < rows)
    tl.store(dot_ptr + r, tl.sum(grad * value, 1), mask=r < rows)
    if WITH_SQUARES:
        tl.store(value_sq_ptr + r, tl.sum(value * value, 1), mask=r < rows)


@triton.jit
def _step_kernel(
    grad_ptr, value_ptr, exp_avg_sq_ptr, delta_ptr, factor_ptr, scale_ptr, rows, clip, beta1, beta2, root, eps,
    WITH_SCALE: tl.constexpr, WIDTH: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    place = r.to(tl.int64)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    inside = (r < rows)[:, None]
    grad = tl.load(grad_ptr + place, mask=inside, other=0.0)
    if clip == 0.0:  # they are not finite: 0 * inf would spoil the state
        grad = tl.zeros_like(grad)
    square = tl.load(exp_avg_sq_ptr + place, mask=inside, other=0.0)
    square = square * beta2 + grad * grad * ((1.0 - beta2) * clip * clip)
    step = grad / (tl.sqrt(square) * root + eps) * tl.load(factor_ptr + r, mask=r < rows, other=0.0)[:, None]
    if WITH_SCALE:
        value = tl.load(value_ptr + place, mask=inside, other=0.0)
        step += value * tl.load(scale_ptr + r, mask=r < rows, other=0.0)[:, None]
    delta = tl.load(delta_ptr + place, mask=inside, other=0.0)
    tl.store(exp_avg_sq_ptr + place, square, mask=inside)
    tl.store(delta_ptr + place, delta + (step - delta) * (1.0 - beta1), mask=inside)


def sums(grads: Tensor, values: Tensor, grad_sq: Tensor, dot: Tensor, value_sq: Tensor | None) -> None:
    """grads and values (rows, WIDTH), float32 and contiguous as all here -> into (rows,) each, sums of a row's grad^2,
    grad * value and, if wanted, value^2."""
    rows, width = grads.shape
    _sums_kernel[(triton.cdiv(rows, BLOCK_R),)](
        grads, values, grad_sq, dot, value_sq, rows, WITH_SQUARES=value_sq is not None, WIDTH=width, BLOCK_R=BLOCK_R
    )


def step(
    grads: Tensor,
    values: Tensor,
    exp_avg_sq: Tensor,
    delta: Tensor,
    factor: Tensor,
    scale: Tensor | None,
    clip: float,
    betas: tuple[float, float],
    root: float,
    eps: float,
) -> None:
    """Moves on exp_avg_sq and delta (rows, WIDTH), see :meth:`sammo.optim.group.GroupState.update`; factor and scale are
    (rows, 1)."""
    rows, width = grads.shape
    _step_kernel[(triton.cdiv(rows, BLOCK_R),)](
        grads, values, exp_avg_sq, delta, factor, scale, rows, clip, *betas, root, eps,
        WITH_SCALE=scale is not None, WIDTH=width, BLOCK_R=BLOCK_R,
    )  # fmt: skip
