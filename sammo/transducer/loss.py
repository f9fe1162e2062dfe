"""The pruned transducer loss (Kuang et al., "Pruned RNN-T for fast, memory-efficient ASR training", 2022).

1. :func:`smoothed_loss`: the loss of a joiner that only adds, and with it the probability of each
   transition;
2. :func:`prune_ranges`: for each frame the window of positions that holds most of it;
3. :func:`prune`: the joiner's inputs in those windows;
4. :func:`pruned_loss`: the loss of the real joiner, on the windows alone.

:func:`full_loss` is the loss without pruning. All agree with k2's functions of ``rnnt_type``
"regular": any number of symbols may be emitted in one frame. Everything is computed in float32 at
least. A boundary is (N, 4) int64: [0, 0, symbols, frames] of each utterance.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sammo.transducer.lattice import Occupation, mutual_information
from sammo.transducer.logprobs import joint_logprobs, simple_logprobs

INF = float("inf")


def smoothed_loss(
    lm: Tensor,
    am: Tensor,
    symbols: Tensor,
    boundary: Tensor | None = None,
    *,
    blank_id: int = 0,
    lm_scale: float = 0.0,
    am_scale: float = 0.0,
    engine: str = "auto",
) -> tuple[Tensor, Occupation]:
    """Loss of the joiner lm + am, smoothed by the label-only and the acoustic-only losses.

    Args:
      lm: (N, S + 1, V) logits of each context, the first before any symbol.
      am: (N, T, V) logits of each frame.
      symbols: (N, S) int64, any symbol after an utterance's own.
      boundary: (N, 4) or None for full lengths.
      lm_scale, am_scale: their shares; the rest is the joint loss's.
      engine: of the recursion, see :mod:`sammo.transducer.engines`.

    Returns:
      (N,) negative log-probabilities, and the occupation of the lattice's transitions.
    """
    px, py = simple_logprobs(lm, am, symbols, blank_id, lm_scale, am_scale)
    scores, occupation = mutual_information(_close(px, boundary), py, boundary, engine)
    return -scores, occupation


def full_loss(
    logits: Tensor, symbols: Tensor, boundary: Tensor | None = None, *, blank_id: int = 0, engine: str = "auto"
) -> Tensor:
    """The loss without pruning, (N,): logits (N, T, S + 1, V), symbols (N, S)."""
    batch, frames, cells, _ = logits.shape
    following = _with_blank(symbols, blank_id)[:, None].expand(batch, frames, cells)
    symbol, blank = joint_logprobs(logits, following, blank_id)
    px = symbol[:, :, :-1].transpose(1, 2)
    return -mutual_information(_close(px, boundary), blank.transpose(1, 2), boundary, engine)[0]


def pruned_loss(
    logits: Tensor,
    symbols: Tensor,
    ranges: Tensor,
    boundary: Tensor | None = None,
    *,
    blank_id: int = 0,
    engine: str = "auto",
    overwrite_logits: bool = False,
) -> Tensor:
    """Loss of the real joiner over the positions that were kept.

    Args:
      logits: (N, T, R, V) of the joiner.
      symbols: (N, S) int64.
      ranges: (N, T, R) int64 of :func:`prune_ranges`.
      boundary: (N, 4) or None for full lengths.
      overwrite_logits: let the gradient take the place of the logits, which saves their size in
        memory. Only for logits that nothing else reads; a second backward pass then raises.

    Returns:
      (N,) negative log-probabilities.
    """
    batch, frames, _, _ = logits.shape
    cells = symbols.shape[1] + 1
    following = _with_blank(symbols, blank_id)[:, None].expand(batch, frames, cells).gather(2, ranges)
    symbol, blank = joint_logprobs(logits, following, blank_id, overwrite_logits)
    outside = symbol.new_full((batch, frames, cells), -INF)
    px = outside.scatter(2, ranges, symbol)[:, :, :-1].transpose(1, 2)
    py = outside.scatter(2, ranges, blank).transpose(1, 2)
    return -mutual_information(_close(px, boundary), py, boundary, engine)[0]


def _with_blank(symbols: Tensor, blank_id: int) -> Tensor:
    """(N, S + 1): what follows each position; nothing follows the last, where blank stands in."""
    return torch.cat([symbols, symbols.new_full((len(symbols), 1), blank_id)], dim=1)


def _close(px: Tensor, boundary: Tensor | None) -> Tensor:
    """Add the frame after the last (N, S, T + 1), and let no symbol be emitted after an
    utterance's own last frame: its last transition is a blank."""
    batch, symbols, frames = px.shape
    closed = torch.cat([px, px.new_full((batch, symbols, 1), -INF)], dim=2)
    if boundary is None:
        return closed
    after = torch.arange(frames + 1, device=px.device) >= boundary[:, 3, None, None]
    return closed.masked_fill(after, -INF)


# ------------------------------------------------------------------------------------ pruning


def least_range(symbols: list[int], frames: list[int]) -> int:
    """Positions per frame without which some utterance, of so many symbols and frames, could not be aligned."""
    return max((int((s - 1) / max(t, 1)) + 2 for s, t in zip(symbols, frames)), default=2)


def prune_ranges(
    px_grad: Tensor, py_grad: Tensor, boundary: Tensor, prune_range: int, least: int | None = None
) -> Tensor:
    """The window of positions to keep for each frame.

    It is the one that most of the probability passes through (eqs. 12-13 of the paper), then moved
    so that windows never go back, overlap from frame to frame, begin at 0 and end at the last
    symbol: some alignment always survives.

    Args:
      px_grad: (N, S, T + 1) occupation of :func:`smoothed_loss`.
      py_grad: (N, S + 1, T).
      boundary: (N, 4).
      prune_range: positions per frame, at least 2. Raised to what the utterance with the most
        symbols per frame needs; lowered to S + 1.
      least: :func:`least_range` of the boundary. None: read from it, which waits for a GPU.

    Returns:
      (N, T, R) int64, consecutive positions in 0 ... S.
    """
    batch, symbols, _ = px_grad.shape
    frames = py_grad.shape[-1]
    if prune_range < 2:
        raise ValueError(f"prune_range is {prune_range}: no path survives with less than 2")
    ends, last = boundary[:, 2], boundary[:, 3] - 1
    if least is None:
        least = least_range(ends.tolist(), boundary[:, 3].tolist())
    size = min(max(prune_range, least), symbols + 1)
    # Overlapping windows over s as a view, summed in the order of k2 so that ties fall alike.
    stride_n, stride_s, stride_t = py_grad.stride()
    windows = py_grad.as_strided((batch, symbols + 2 - size, size, frames), (stride_n, stride_s, stride_s, stride_t))
    # A path that enters a window by a symbol in this very frame was not there when it began.
    entered = torch.cat([px_grad.new_zeros(batch, 1, frames), px_grad[:, : symbols + 1 - size, :frames]], 1)
    begin = (windows.sum(dim=2) - entered).argmax(dim=1)
    frame = torch.arange(frames, device=boundary.device)
    begin = torch.where(frame < last[:, None], begin, (ends - size + 1).clamp(min=0)[:, None])
    begin = _never_decreasing(begin)
    # Steps of at most size - 1: with that slope taken off and the sign turned, never decreasing.
    slope = (size - 1) * frame
    begin = slope - _never_decreasing(slope - begin).clamp(min=0)
    return begin[:, :, None] + torch.arange(size, device=boundary.device)


def _never_decreasing(x: Tensor) -> Tensor:
    """The largest sequence along the last dimension that is below x and never decreases."""
    return x.flip(-1).cummin(-1).values.flip(-1)


def prune(enc: Tensor, pred: Tensor, ranges: Tensor) -> tuple[Tensor, Tensor]:
    """The joiner's inputs for the positions that are kept.

    Args:
      enc: (N, T, C) projected frames.
      pred: (N, S + 1, C) projected contexts.
      ranges: (N, T, R) of :func:`prune_ranges`.

    Returns:
      (N, T, 1, C), which broadcasts over the positions, and (N, T, R, C).
    """
    batch, cells, width = pred.shape
    offset = cells * torch.arange(batch, device=ranges.device)[:, None, None]
    picked = pred.reshape(batch * cells, width).index_select(0, (ranges + offset).reshape(-1))
    return enc.unsqueeze(2), picked.view(*ranges.shape, width)
