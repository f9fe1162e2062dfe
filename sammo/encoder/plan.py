"""Which frames see which: chunks, left context and padding of one forward pass.

Made once per pass and per frame rate, shared by all layers that run at it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Plan(NamedTuple):
    """The geometry of a stack. Attention runs on blocks of ``rows`` consecutive frames, each of
    which sees its own frames and ``left`` frames before them."""

    frames: int  # T, a multiple of chunk and of rows
    chunk: int  # frames per chunk of the chunk-wise convolution
    rows: int  # frames per block of attention
    left: int  # left context of a block, in frames
    mask: Tensor | None = None  # bool (1 or N * blocks, 1, 1 or rows, left + rows), True: unseen
    padding: Tensor | None = None  # bool (N, T, 1), True at or beyond the end of an utterance
    ends: Tensor | None = None  # (N,) ends of utterances that are one chunk of their own length


def make_plan(
    frames: int,
    chunk: int,
    left: int,
    lengths: Tensor | None,
    streaming: bool = False,
    seen: Tensor | None = None,
    own_ends: bool = True,
    device: torch.device | None = None,
) -> Plan:
    """Plan of a stack, all numbers at its own frame rate.

    Args:
      frames: T.
      chunk: frames per chunk, a divisor of T; -1: the whole utterance is one chunk.
      left: frames of left context; -1: all.
      lengths: (N,) valid frames, or None if all are.
      streaming: whether a state holds the left context of the first chunk.
      seen: (N,) frames that this left context really holds; None: all.
      own_ends: whether an utterance that is one chunk ends at its own end, not at the batch's.
    """
    padding = None
    if lengths is not None:
        padding = torch.arange(frames, device=lengths.device) >= lengths[:, None]  # (N, T)
    column = None if padding is None else padding[:, :, None]
    row = None if padding is None else padding[:, None, None, :]
    if chunk == -1:
        return Plan(frames, frames, frames, 0, row, column, lengths if own_ends else None)
    if not streaming and left != 0:
        # Blocks cost (left + chunk) keys a frame and their copies; all against all costs T.
        if left == -1 or 2 * (left + chunk) > frames:
            mask = _chunk_mask(frames, chunk, left, device)
            return Plan(frames, chunk, frames, 0, mask if row is None else mask | row, column)
    mask = _block_mask(frames, chunk, left, lengths, streaming, seen, device)
    return Plan(frames, chunk, chunk, left, mask, column)


def _chunk_mask(frames: int, chunk: int, left: int, device: torch.device | None) -> Tensor:
    """(1, 1, T, T), True where a frame (row) does not see another (column)."""
    position = torch.arange(frames, device=device)
    start = (position // chunk * chunk)[:, None]  # of the chunk that the row is in
    mask = position >= start + chunk
    if left != -1:
        mask = mask | (position < start - left)
    return mask[None, None]


def _block_mask(
    frames: int,
    chunk: int,
    left: int,
    lengths: Tensor | None,
    streaming: bool,
    seen: Tensor | None,
    device: torch.device | None,
) -> Tensor | None:
    """(1 or N * blocks, 1, 1, left + chunk), True at keys that are not there; None if all are."""
    first = None  # the earliest key that is there: 0 is the first frame of x
    if left > 0 and not streaming:
        first = 0
    elif left > 0 and seen is not None:
        first = -seen[:, None, None]
    if first is None and lengths is None:
        return None
    key = torch.arange(-left, chunk, device=device)
    key = key + torch.arange(0, frames, chunk, device=device)[:, None]  # (blocks, left + chunk)
    early = None if first is None else key < first
    late = None if lengths is None else key >= lengths[:, None, None]
    mask = early if late is None else late if early is None else early | late
    assert mask is not None
    return mask.reshape(-1, 1, 1, left + chunk)


def tile_mask(mask: Tensor | None, batch: int) -> Tensor | None:
    """A mask of all blocks of one utterance, repeated for ``batch`` rows of blocks."""
    if mask is None or mask.shape[0] in (1, batch):
        return mask
    return mask.repeat(batch // mask.shape[0], 1, 1, 1)
