"""The lattice recursion as Triton kernels: one launch forward, one backward, one program per utterance.

A program goes frame by frame with the positions s of one frame in its lanes. Within a frame

    p[s] = log(exp(b[s]) + exp(p[s-1] + a[s])),   b[s] = p[s, t-1] + py[s, t-1],   a[s] = px[s-1, t]

is a first-order linear recursion (of the semiring log-add, +), and so one associative scan over s;
the way back is the same with + and *. Nothing but the operands passes between frames, and they stay
in registers: no barrier, no launch per frame.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _log_add(x, y):
    top = tl.maximum(x, y)
    low = tl.minimum(x, y)
    # low = -inf covers both being so, of which the difference is not a number.
    return tl.where(low == -float("inf"), top, top + tl.log(1.0 + tl.exp(low - top)))


@triton.jit
def _chain_log(a1, b1, a2, b2):
    return a1 + a2, _log_add(b1 + a2, b2)


@triton.jit
def _chain(a1, b1, a2, b2):
    return a1 * a2, b1 * a2 + b2


@triton.jit(do_not_specialize_on_alignment=["px_n", "px_s", "px_t", "py_n", "py_s", "py_t", "p_n", "p_t"])
def _forward_kernel(
    px_ptr, py_ptr, boundary_ptr, p_ptr, scores_ptr,
    px_n, px_s, px_t, py_n, py_s, py_t, p_n, p_t,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """p (N, T + 1, S + 1) within each boundary, and scores (N,)."""
    n = tl.program_id(0).to(tl.int64)
    s = tl.arange(0, BLOCK)
    s_begin = tl.load(boundary_ptr + n * 4).to(tl.int32)
    t_begin = tl.load(boundary_ptr + n * 4 + 1).to(tl.int32)
    s_end = tl.load(boundary_ptr + n * 4 + 2).to(tl.int32)
    t_end = tl.load(boundary_ptr + n * 4 + 3).to(tl.int32)
    inside = (s >= s_begin) & (s <= s_end)
    enters = (s > s_begin) & (s <= s_end)
    left = px_ptr + n * px_n + (s - 1) * px_s
    below = py_ptr + n * py_n + s * py_s
    out = p_ptr + n * p_n + s

    a = tl.load(left + t_begin * px_t, mask=enters, other=-float("inf"))
    b = tl.where(s == s_begin, 0.0, -float("inf")).to(a.dtype)
    _, p = tl.associative_scan((a, b), 0, _chain_log)
    tl.store(out + t_begin * p_t, p, mask=inside)
    t = t_begin + 1
    while t <= t_end:
        a = tl.load(left + t * px_t, mask=enters, other=-float("inf"))
        b = p + tl.load(below + (t - 1) * py_t, mask=inside, other=-float("inf"))
        _, p = tl.associative_scan((a, b), 0, _chain_log)
        tl.store(out + t * p_t, p, mask=inside)
        t += 1
    tl.store(scores_ptr + n, tl.sum(tl.where(s == s_end, p, 0.0), 0))


@triton.jit(do_not_specialize_on_alignment=["px_n", "px_s", "px_t", "p_n", "p_t", "gx_n", "gx_s", "gy_n", "gy_s"])
def _backward_kernel(
    px_ptr, boundary_ptr, p_ptr, grad_x_ptr, grad_y_ptr,
    px_n, px_s, px_t, p_n, p_t, gx_n, gx_s, gy_n, gy_s,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Occupation of each transition, from p: gradients (N, S, T + 1) and (N, S + 1, T), zero before."""
    n = tl.program_id(0).to(tl.int64)
    s = tl.arange(0, BLOCK)
    s_begin = tl.load(boundary_ptr + n * 4).to(tl.int32)
    t_begin = tl.load(boundary_ptr + n * 4 + 1).to(tl.int32)
    s_end = tl.load(boundary_ptr + n * 4 + 2).to(tl.int32)
    t_end = tl.load(boundary_ptr + n * 4 + 3).to(tl.int32)
    inside = (s >= s_begin) & (s <= s_end)
    enters = (s > s_begin) & (s <= s_end)
    leaves = (s >= s_begin) & (s < s_end)
    px = px_ptr + n * px_n + s * px_s
    cell = p_ptr + n * p_n + s
    grad_x = grad_x_ptr + n * gx_n + (s - 1) * gx_s
    grad_y = grad_y_ptr + n * gy_n + s * gy_s

    # What arrives in this frame from the one after; at the end, the end itself.
    here = tl.load(cell + t_end * p_t, mask=inside, other=-float("inf"))
    arriving = tl.where(s == s_end, 1.0, 0.0).to(here.dtype)
    t = t_end
    while t >= t_begin:
        before = tl.load(cell + (t - 1) * p_t, mask=inside & (t > t_begin), other=-float("inf"))
        right = tl.load(cell + 1 + t * p_t, mask=leaves, other=-float("inf"))
        before_right = tl.load(cell + 1 + (t - 1) * p_t, mask=leaves & (t > t_begin), other=-float("inf"))
        left = tl.load(cell - 1 + t * p_t, mask=enters, other=-float("inf"))
        left_px = tl.load(px - px_s + t * px_t, mask=enters, other=-float("inf"))
        here_px = tl.load(px + t * px_t, mask=leaves, other=-float("inf"))
        share_in = _share(left + left_px, here, before)
        share_out = _share(here + here_px, right, before_right)
        _, occupied = tl.associative_scan((share_out, arriving), 0, _chain, reverse=True)
        tl.store(grad_x + t, share_in * occupied, mask=enters)
        arriving = (1.0 - share_in) * occupied
        tl.store(grad_y + t - 1, arriving, mask=inside & (t > t_begin))
        here = before
        t -= 1


@triton.jit
def _share(term, total, other):
    """Part of a cell's probability that came by a symbol: all, where none can come by a frame."""
    share = tl.minimum(tl.exp(term - total), 1.0)
    share = tl.where(other == -float("inf"), 1.0, share)
    return tl.where(term == -float("inf"), 0.0, share)


def recursion(px: Tensor, py: Tensor, boundary: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """(scores (N,), gradient of px (N, S, T + 1), gradient of py (N, S + 1, T)).

    Arguments as in :func:`sammo.transducer.lattice.mutual_information`, on a CUDA device (or
    anywhere, under TRITON_INTERPRET=1).
    """
    batch, symbols, width = px.shape
    if boundary is None:
        boundary = torch.tensor([0, 0, symbols, width - 1]).expand(batch, 4)
    boundary = boundary.to(device=px.device, dtype=torch.int64).contiguous()
    p = px.new_empty(batch, width, symbols + 1)
    scores = px.new_empty(batch)
    grad_x, grad_y = px.new_zeros(px.shape), py.new_zeros(py.shape)
    if not batch:
        return scores, grad_x, grad_y
    block = max(16, triton.next_power_of_2(symbols + 1))
    warps = min(8, max(1, block // 64))
    grid = (batch,)
    _forward_kernel[grid](
        px, py, boundary, p, scores,
        *px.stride(), *py.stride(), p.stride(0), p.stride(1),
        BLOCK=block, num_warps=warps,
    )  # fmt: skip
    _backward_kernel[grid](
        px, boundary, p, grad_x, grad_y,
        *px.stride(), p.stride(0), p.stride(1),
        grad_x.stride(0), grad_x.stride(1), grad_y.stride(0), grad_y.stride(1),
        BLOCK=block, num_warps=warps,
    )  # fmt: skip
    return scores, grad_x, grad_y
