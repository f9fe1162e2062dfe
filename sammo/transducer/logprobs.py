"""Log-probabilities of the two symbols that a lattice cell can emit, out of logits over V symbols.

A cell needs two numbers of the V: those of its next symbol and of blank. These functions never
hold the log-softmax over V of all cells; they work block by block in float32 (float64 for float64
inputs), whatever the type of the logits.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sammo.kernels import by_triton

INF = float("inf")

# Logits per block: on a CPU what stays in its cache, on a GPU what bounds the memory.
BLOCK_CPU = 2**19
BLOCK_CUDA = 2**26


def joint_logprobs(
    logits: Tensor, symbols: Tensor, blank_id: int = 0, overwrite_logits: bool = False
) -> tuple[Tensor, Tensor]:
    """log_softmax(logits) of the next symbol and of blank.

    Args:
      logits: (..., V).
      symbols: (...) int64, each cell's next symbol.
      blank_id: which symbol is blank.
      overwrite_logits: put the gradient where the logits are: for logits that nothing else reads.

    Returns:
      (...) and (...), float32 (float64 for float64 logits).
    """
    return _JointLogProbs.apply(logits, symbols, blank_id, overwrite_logits)


class _JointLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, symbols, blank_id, overwrite):
        flat, index = logits.reshape(-1, logits.shape[-1]), symbols.reshape(-1, 1)
        ctx.settings = (blank_id, overwrite)
        if by_triton(logits):
            from sammo.kernels.logprobs import logprobs as of_cells

            symbol, blank, normalizer = of_cells(flat, index[:, 0], blank_id)
            ctx.save_for_backward(logits, symbols, normalizer)
            return symbol.view(symbols.shape), blank.view(symbols.shape)
        dtype = compute_dtype(logits)
        symbol, blank = flat.new_empty(len(flat), dtype=dtype), flat.new_empty(len(flat), dtype=dtype)
        for rows in _row_blocks(flat):
            logprobs = torch.log_softmax(flat[rows], dim=1, dtype=dtype)
            torch.gather(logprobs, 1, index[rows], out=symbol[rows, None])
            blank[rows] = logprobs[:, blank_id]
        ctx.save_for_backward(logits, symbols)
        return symbol.view(symbols.shape), blank.view(symbols.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_symbol, grad_blank):
        logits, symbols, *kept = ctx.saved_tensors
        blank_id, overwrite = ctx.settings
        flat, index = logits.reshape(-1, logits.shape[-1]), symbols.reshape(-1, 1)
        if kept:
            from sammo.kernels.logprobs import logprobs_backward

            by_symbol, by_blank = grad_symbol.reshape(-1), grad_blank.reshape(-1)
            result = logprobs_backward(flat, index[:, 0], kept[0], by_symbol, by_blank, blank_id, overwrite)
            if overwrite:  # which a kernel does not tell autograd
                torch.autograd.graph.increment_version(logits)
            return result.view(logits.shape), None, None, None
        grad_symbol, grad_blank = grad_symbol.reshape(-1, 1), grad_blank.reshape(-1)
        total = -(grad_symbol + grad_blank[:, None])
        result = flat if overwrite else torch.empty_like(flat)
        dtype = compute_dtype(logits)
        for rows in _row_blocks(flat):
            grad = torch.softmax(flat[rows], dim=1, dtype=dtype).mul_(total[rows])
            grad.scatter_add_(1, index[rows], grad_symbol[rows])
            grad[:, blank_id] += grad_blank[rows]
            result[rows] = grad
        return result.view(logits.shape), None, None, None


def _row_blocks(flat: Tensor) -> list[slice]:
    size = BLOCK_CUDA if flat.is_cuda else BLOCK_CPU
    rows = max(1, size // flat.shape[1])
    return [slice(start, start + rows) for start in range(0, len(flat), rows)]


def compute_dtype(x: Tensor) -> torch.dtype:
    """The type in which losses are computed: at least float32."""
    return torch.promote_types(x.dtype, torch.float32)


# ------------------------------------------------------------------------------------ simple


def simple_logprobs(
    lm: Tensor, am: Tensor, symbols: Tensor, blank_id: int = 0, lm_scale: float = 0.0, am_scale: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of a joiner that only adds, smoothed by each part alone.

    (1 - lm_scale - am_scale) * log_softmax(lm + am) + lm_scale * log_softmax(lm)
    + am_scale * log_softmax(am + u), with u the log of the mean of softmax(lm) over the batch.
    (Kuang et al., "Pruned RNN-T", 2022, eqs. 5-11, as k2 computes it: the normalizer of lm + am is
    one matrix product of exponentials. Where that underflows k2 puts the smallest float; here the
    normalizer is then computed from the sums of logits.)

    Args:
      lm: (N, S + 1, V) logits of each context.
      am: (N, T, V) logits of each frame.
      symbols: (N, S) int64.
      lm_scale, am_scale: see above.

    Returns:
      px (N, S, T) of the next symbol and py (N, S + 1, T) of blank; at least float32.
    """
    lm, am = lm.to(compute_dtype(lm)), am.to(compute_dtype(am))
    px, py = _SimpleLogProbs.apply(lm, am, symbols, blank_id, 1.0 - lm_scale - am_scale, lm_scale)
    if am_scale:
        only_x, only_y = _am_only_logprobs(lm, am, symbols, blank_id)
        px, py = px + am_scale * only_x, py + am_scale * only_y
    return px, py


def _am_only_logprobs(lm: Tensor, am: Tensor, symbols: Tensor, blank_id: int) -> tuple[Tensor, Tensor]:
    """log_softmax(am + u) of symbols (N, S, T) and of blank (N, 1, T)."""
    unigram = lm.log_softmax(dim=2).logsumexp(dim=(0, 1)) - math.log(lm.shape[0] * lm.shape[1])
    logprobs = (am + unigram).log_softmax(dim=2)
    return _of_symbols(logprobs, symbols), logprobs[:, None, :, blank_id]


def _of_symbols(am: Tensor, symbols: Tensor) -> Tensor:
    """am[n, t, symbols[n, s]] as (N, S, T)."""
    index = symbols[:, None].expand(-1, am.shape[1], -1)
    return am.gather(2, index).transpose(1, 2)


class _SimpleLogProbs(torch.autograd.Function):
    """Everything but the acoustic-only part. Keeps one exponential per logit for the backward pass."""

    @staticmethod
    def forward(ctx, lm, am, symbols, blank_id, scale, lm_scale):
        with torch.autocast(am.device.type, enabled=False):
            lm_top, am_top = lm.amax(2, keepdim=True), am.amax(2, keepdim=True)
            lm_exp, am_exp = (lm - lm_top).exp_(), (am - am_top).exp_()
            product = lm_exp @ am_exp.transpose(1, 2)
        # Where the two parts favor symbols far apart, every product of exponentials may be lost to underflow. Those
        # cells, if there are any, are computed again from the sums of logits, and their product is infinite: no share
        # of theirs in the matrix products of backward.
        smallest = torch.finfo(product.dtype).tiny * 1e8
        if by_triton(product):
            from sammo.kernels.normalizer import normalizer as of_cells

            normalizer = of_cells(product, lm, am, lm_top, am_top, smallest)
            cells = (normalizer, lm, am)
        else:
            normalizer = product.log() + lm_top + am_top.transpose(1, 2)
            cells = _find_lost_cells(normalizer, product, lm, am, smallest)

        count = symbols.shape[1]
        lm_total = lm_exp.sum(2, keepdim=True)
        lm_normalizer = lm_total.log() + lm_top
        lm_symbol = lm[:, :count].gather(2, symbols[:, :, None])
        lm_blank = lm[:, :, blank_id, None]
        px = _of_symbols(am, symbols) + lm_symbol - normalizer[:, :count]
        py = am[:, None, :, blank_id] + lm_blank - normalizer
        if scale != 1.0 or lm_scale:
            px = px * scale + lm_scale * (lm_symbol - lm_normalizer[:, :count])
            py = py * scale + lm_scale * (lm_blank - lm_normalizer)
        ctx.save_for_backward(lm_exp, am_exp, product, lm_total, symbols, *cells)
        ctx.settings = (blank_id, scale, lm_scale)
        return px, py

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_x, grad_y):
        lm_exp, am_exp, product, lm_total, symbols, *cells = ctx.saved_tensors
        blank_id, scale, lm_scale = ctx.settings
        count = symbols.shape[1]
        sum_x, sum_y = grad_x.sum(2, keepdim=True), grad_y.sum(2)
        # Gradient of the normalizers, and of the sums that they are logarithms of.
        weight = grad_y.clone()
        weight[:, :count] += grad_x
        total = weight.sum(2, keepdim=True)
        weight *= -scale
        ratio = weight / product
        with torch.autocast(lm_exp.device.type, enabled=False):
            grad_lm = ratio @ am_exp
            grad_am = ratio.transpose(1, 2) @ lm_exp
        grad_am *= am_exp
        grad_lm -= lm_scale * total / lm_total
        grad_lm *= lm_exp
        if by_triton(product):
            from sammo.kernels.normalizer import add_lost_gradient

            add_lost_gradient(grad_lm, grad_am, product, weight, *cells)
        elif cells:
            for rows in _cell_blocks(cells[0], lm_exp):
                _add_lost_cells(grad_lm, grad_am, weight, rows, *cells)

        index = symbols[:, None].expand(-1, am_exp.shape[1], -1)
        grad_am.scatter_add_(2, index, scale * grad_x.transpose(1, 2))
        grad_am[:, :, blank_id] += scale * grad_y.sum(1)
        grad_lm[:, :count].scatter_add_(2, symbols[:, :, None], (scale + lm_scale) * sum_x)
        grad_lm[:, :, blank_id] += (scale + lm_scale) * sum_y
        return grad_lm, grad_am, None, None, None, None


def _find_lost_cells(
    normalizer: Tensor, product: Tensor, lm: Tensor, am: Tensor, smallest: float
) -> tuple[Tensor, ...]:
    """Computes the lost cells of ``normalizer``; their indices (M, 3) and the logits, or nothing if there are none."""
    lost = (product < smallest).nonzero()
    if not len(lost):
        return ()
    n, s, t = lost.unbind(1)
    for rows in _cell_blocks(lost, lm):
        cell = _rows_of(lm, n[rows], s[rows]) + _rows_of(am, n[rows], t[rows])
        normalizer[n[rows], s[rows], t[rows]] = cell.logsumexp(1)
    product[n, s, t] = INF
    return lost, lm, am


def _rows_of(x: Tensor, n: Tensor, i: Tensor) -> Tensor:
    """x[n, i]: (M, V)."""
    return x.flatten(0, 1).index_select(0, n * x.shape[1] + i)


def _cell_blocks(cells: Tensor, logits: Tensor) -> list[slice]:
    size = BLOCK_CUDA if logits.is_cuda else BLOCK_CPU
    count = max(1, size // logits.shape[-1])
    return [slice(start, start + count) for start in range(0, len(cells), count)]


def _add_lost_cells(
    grad_lm: Tensor, grad_am: Tensor, weight: Tensor, rows: slice, lost: Tensor, lm: Tensor, am: Tensor
) -> None:
    """Add the gradient through the normalizers of cells of which the products underflowed."""
    n, s, t = lost[rows].unbind(1)
    share = torch.softmax(_rows_of(lm, n, s) + _rows_of(am, n, t), dim=1) * weight[n, s, t][:, None]
    grad_lm.flatten(0, 1).index_add_(0, n * lm.shape[1] + s, share)
    grad_am.flatten(0, 1).index_add_(0, n * am.shape[1] + t, share)
