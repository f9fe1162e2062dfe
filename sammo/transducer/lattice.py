"""The sum over all alignments: a recursion over the lattice of (symbols, frames).

With p[s, t] the log-probability of having emitted s symbols before frame t,

    p[0, 0] = 0
    p[s, t] = log(exp(p[s-1, t] + px[s-1, t]) + exp(p[s, t-1] + py[s, t-1]))

(Graves, "Sequence transduction with recurrent neural networks", 2012, eq. 16; written as in k2).
The gradient of p[S, T] is the probability that an alignment uses a transition.

The native engine goes over anti-diagonals s + t, whose cells do not depend on each other. Every
utterance is walked from the first corner of the batch's lattice to the last: outside its own
boundary it has one path, of probability one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sammo.transducer.engines import LOSS_ENGINES

INF = float("inf")


class Occupation(NamedTuple):
    """Probability of each transition over all alignments: the gradients of the score."""

    px: Tensor  # (N, S, T + 1)
    py: Tensor  # (N, S + 1, T)


def mutual_information(
    px: Tensor, py: Tensor, boundary: Tensor | None = None, engine: str = "auto"
) -> tuple[Tensor, Occupation]:
    """Log-probability of each utterance, summed over its alignments.

    Args:
      px: (N, S, T + 1) log-probability of emitting symbol s (of S) in frame t. There is one frame
        more than there are, where a transducer may not emit: -inf there is the caller's matter.
      py: (N, S + 1, T) log-probability of going from frame t to the next after s symbols.
      boundary: (N, 4) int64, each utterance's first symbol, first frame, end of symbols, end of
        frames: [0, 0, S, T] if None.
      engine: "auto", "k2", "triton" or "native".

    Returns:
      scores (N,), differentiable, and the occupation, a constant; float32 (float64 for float64
      inputs). An utterance without any alignment has the score -inf and no occupation.
    """
    batch, symbols, _ = px.shape
    frames = py.shape[-1]
    if px.shape != (batch, symbols, frames + 1) or py.shape != (batch, symbols + 1, frames):
        raise ValueError(f"px {tuple(px.shape)} must be (N, S, T + 1) and py {tuple(py.shape)} (N, S + 1, T)")
    if boundary is not None and boundary.shape != (batch, 4):
        raise ValueError(f"boundary {tuple(boundary.shape)} must be (N, 4)")
    dtype = torch.promote_types(torch.promote_types(px.dtype, py.dtype), torch.float32)
    px, py = px.to(dtype), py.to(dtype)
    scores, occupied_x, occupied_y = _Recursion.apply(px, py, boundary, LOSS_ENGINES.resolve(engine, px.device))
    return scores, Occupation(occupied_x, occupied_y)


class _Recursion(torch.autograd.Function):
    @staticmethod
    def forward(ctx, px, py, boundary, engine):
        scores, grad_x, grad_y = RECURSIONS[engine](px, py, boundary)
        possible = (scores > -INF)[:, None, None]
        grad_x, grad_y = grad_x.mul_(possible), grad_y.mul_(possible)
        ctx.save_for_backward(grad_x, grad_y)
        ctx.mark_non_differentiable(grad_x, grad_y)
        return scores, grad_x, grad_y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, *_):
        grad_x, grad_y = ctx.saved_tensors
        return grad_x * grad[:, None, None], grad_y * grad[:, None, None], None, None


# ------------------------------------------------------------------------------------ native


def _recursion_native(px: Tensor, py: Tensor, boundary: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """(scores, gradient of px, gradient of py) by anti-diagonals.

    An anti-diagonal of the whole batch is one contiguous row: the positions of all utterances one
    after another, each utterance with one lane before it that no path enters. Coming by a frame
    stays in the lane; coming by a symbol moves up by one. So what came before an anti-diagonal is
    the row before it seen twice, shifted by one: a view, and a step takes two operations.
    """
    batch, symbols, width = px.shape
    frames, cells, diagonals = width - 1, symbols + 1, symbols + width
    lanes = batch * (cells + 1)

    steps = px.new_full((diagonals, 2, lanes), -INF)  # into each cell, by a symbol and by a frame
    into_x = _into(steps, 0, px.shape, symbol=1, frame=0)
    into_y = _into(steps, 1, py.shape, symbol=0, frame=1)
    valid_x, valid_y = None, None
    if boundary is None:
        into_x.copy_(px)
        into_y.copy_(py)
    else:
        (valid_x, free_x), (valid_y, free_y) = _paths(boundary, symbols, frames)
        into_x.copy_(torch.where(valid_x, px, torch.where(free_x, px.new_zeros(()), -INF)))
        into_y.copy_(torch.where(valid_y, py, torch.where(free_y, py.new_zeros(()), -INF)))

    p = px.new_full((diagonals, 1 + lanes), -INF)
    here = p[:, 1:]
    here[0, 1 :: cells + 1] = 0.0
    before = p.as_strided((diagonals, 2, lanes), (1 + lanes, 1, 1))
    sums = torch.empty_like(steps[0])
    by_symbol, by_frame = sums
    for previous, step, now in zip(before.unbind(), steps.unbind()[1:], here.unbind()[1:]):
        torch.add(previous, step, out=sums)
        torch.logaddexp(by_symbol, by_frame, out=now)
    scores = here[-1, cells :: cells + 1].clone()

    # How a cell's probability splits between its two incoming transitions, by a frame and by a
    # symbol. Written as k2 does: the two add to one, so that no probability is lost on the way.
    shares = px.new_zeros(diagonals, 2, lanes + 1)
    by_frame, by_symbol = shares[1:, 0, :lanes], shares[1:, 1, :lanes]
    torch.add(steps[1:, 0], before[:-1, 0], out=by_symbol)
    by_symbol.sub_(here[1:]).exp_().nan_to_num_(nan=0.0)  # nan: no path reaches the cell
    torch.sub(1.0, by_symbol, out=by_frame)

    occupation = px.new_zeros(diagonals, lanes + 1)
    occupation[-1, cells :: cells + 1] = 1.0
    leaving = shares.as_strided((diagonals, 2, lanes), (2 * (lanes + 1), lanes + 2, 1))
    after = occupation.as_strided((diagonals, 2, lanes), (lanes + 1, 1, 1))
    by_frame, by_symbol = sums
    rows = zip(leaving.unbind()[:0:-1], after.unbind()[:0:-1], occupation[:, :lanes].unbind()[-2::-1])
    for leave, later, now in rows:
        torch.mul(leave, later, out=sums)
        torch.add(by_frame, by_symbol, out=now)
    used = shares.mul_(occupation[:, None])
    grad_x = _into(used, 1, px.shape, symbol=1, frame=0)
    grad_y = _into(used, 0, py.shape, symbol=0, frame=1)
    if valid_x is None or valid_y is None:
        return scores, grad_x.contiguous(), grad_y.contiguous()
    return scores, grad_x * valid_x, grad_y * valid_y


def _into(rows: Tensor, plane: int, shape: torch.Size, symbol: int, frame: int) -> Tensor:
    """View of anti-diagonals (D, 2, lanes) as transitions (N, S', T'), of which the first leads into
    position ``symbol`` and frame ``frame``: [n, i, j] is in row symbol + i + frame + j."""
    batch, symbols, frames = shape
    diagonal, width, lane = rows.stride()
    cells = rows.shape[2] // batch if batch else 0
    start = rows.storage_offset() + plane * width + (symbol + frame) * diagonal + (1 + symbol) * lane
    return rows.as_strided(shape, (cells * lane, diagonal + lane, diagonal), start)


def _paths(boundary: Tensor, symbols: int, frames: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """For transitions over a symbol (N, S, T + 1) and over a frame (N, S + 1, T): which lie within
    the boundary, and which lead from the lattice's first corner to it and on to the last corner."""
    s_begin, t_begin, s_end, t_end = boundary[:, :, None, None].unbind(1)
    s = torch.arange(symbols + 1, device=boundary.device)[:, None]
    t = torch.arange(frames + 1, device=boundary.device)
    in_s, in_t = (s >= s_begin) & (s < s_end), (t >= t_begin) & (t < t_end)
    valid_x = in_s & (in_t | (t == t_end))
    valid_y = (in_s | (s == s_end)) & in_t
    free_x = ((t == 0) & (s < s_begin)) | ((t == frames) & (s >= s_end))
    free_y = ((s == s_begin) & (t < t_begin)) | ((s == s_end) & (t >= t_end))
    return (valid_x[:, :-1], free_x[:, :-1]), (valid_y[:, :, :-1], free_y[:, :, :-1])


# ------------------------------------------------------------------------------------ others


def _recursion_k2(px: Tensor, py: Tensor, boundary: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    import k2

    scores, (grad_x, grad_y) = k2.mutual_information_recursion(px.detach(), py.detach(), boundary, return_grad=True)
    return scores, grad_x, grad_y


def _recursion_triton(px: Tensor, py: Tensor, boundary: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    from sammo.transducer.lattice_triton import recursion

    return recursion(px, py, boundary)


RECURSIONS = {"native": _recursion_native, "k2": _recursion_k2, "triton": _recursion_triton}
