"""Relative positional encoding (Zipformer paper, section 3.2, as in its published code).

Offsets are compressed logarithmically, mapped to an interval by atan and expanded in a Fourier
basis of it, so that few dimensions tell near offsets apart exactly and far ones roughly.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sammo.constants import constant
from sammo.recording import is_tracing, sizes

POSITION_DROPOUT = 0.15  # in training


@constant
def relative_positions(frames: int, left: int, dim: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Encodings of the offsets (source - target) from -(left + frames - 1) to frames - 1.

    Returns:
      (left + 2 * frames - 1, dim).
    """
    offsets = torch.arange(-(left + frames - 1), frames, device=device, dtype=torch.float32)
    compression = dim**0.5
    compressed = offsets.sign() * compression * ((offsets.abs() / compression) + 1.0).log()
    angle = (compressed * (2.0 * math.pi / dim)).atan()
    angles = angle[:, None] * torch.arange(1, dim // 2 + 1, device=device)
    encoding = torch.stack([angles.cos(), angles.sin()], dim=-1).flatten(1)
    encoding[:, -1] = 1.0  # a bias in place of the highest sine
    return encoding.to(dtype)


def to_absolute(scores: Tensor, frames: int, left: int) -> Tensor:
    """(H, B, Q, left + 2Q - 1) by offset -> (H, B, Q, left + Q) by source position, as a view; or (B, H, ...).

    Row q needs columns Q - 1 - q and on: one step less for each row, which is what reading the
    same memory with rows one column shorter gives.
    """
    if frames == 1:
        return scores
    width = left + 2 * frames - 1
    first, second = sizes(scores)[:2]
    if is_tracing() and left == 0:
        target, source = torch.arange(frames)[:, None], torch.arange(frames)
        return scores.reshape(first, second, frames * width)[:, :, target * (width - 1) + frames - 1 + source]
    flat = scores.view(first, second, frames * width)[..., frames - 1 : frames - 1 + frames * (width - 1)]
    return flat.view(first, second, frames, width - 1)[..., : left + frames]
