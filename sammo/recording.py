"""While a graph is recorded, for torch.compile or an export: what differs then, for all modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from sammo.encoder.plan import Plan

LEAST_SCORE = -1e9  # what stands for minus infinity in a sum; its exponential is zero, too


def is_tracing() -> bool:
    """Whether an export records the graph."""
    return torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]


def is_recording() -> bool:
    """Whether a graph is being recorded: it should hold plain operations and no decision that data takes."""
    return torch.compiler.is_compiling() or is_tracing()


def sizes(x: Tensor) -> tuple[int, ...]:
    """The shape of x as numbers. In the graph of an export the first one, of the batch, is -1: "as many as there are"
    to a view, and what lets the graph take any number of streams; the others are fixed in it."""
    if not is_tracing():
        return tuple(x.shape)
    return (-1, *(int(size) for size in x.shape[1:]))


def as_rows(x: Tensor) -> Tensor:
    """(N, T, C) -> (N * T, C) in the graph of an export, whose products then need no change of shape around them;
    otherwise x."""
    return x.reshape(-1, sizes(x)[-1]) if is_tracing() else x


def as_frames(x: Tensor, plan: Plan | None) -> Tensor:
    """Undo :func:`as_rows`: (N * T, C) -> (N, T, C); x where it has not been changed."""
    return x if x.ndim == 3 or plan is None else x.view(-1, plan.frames, sizes(x)[-1])


def join_past(x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
    """What a convolution over one chunk sees, and what the next one will have before it, in the graph of an export.

    Joined as they lie in memory: a state that is part of a graph's input is copied once, and the next one is a slice.

    Args:
      x: (1, N, T * C), the chunk.
      past: (N, K, C), the frames before it.

    Returns:
      An image (N, C, 1, K + T) and (N, K, C).
    """
    before, channels = sizes(past)[1:]
    count, new = before * channels, sizes(x)[2]
    joined = torch.cat([past.reshape(1, -1, count), x], dim=2)
    image = joined.reshape(-1, 1, before + new // channels, channels).permute(0, 3, 1, 2)
    return image, joined[:, :, new:].reshape(-1, before, channels)


def hide(x: Tensor, mask: Tensor, value: float) -> Tensor:
    """x with ``value``, 0 or far below all others, where ``mask`` is True.

    An export holds it as one product or sum, with a factor or term that is made once for all layers.
    """
    if not is_tracing():
        return x.masked_fill(mask, value)
    return x * (~mask).to(x.dtype) if value == 0.0 else x + mask.to(x.dtype) * max(value, LEAST_SCORE)


def softplus_above_line(x: Tensor, slope: float) -> Tensor:
    """log(1 + exp(x)) - slope x of a tensor of any shape, slope below 1.

    An export holds it as max(x, 0) - slope x, one activation and a factor, - log(sigmoid(|x|)), which runtimes compute in
    whole vectors (their softplus takes four times as long), and which neither overflows nor loses what is below the
    rounding of 1 by more than that.
    """
    if is_tracing():
        return F.leaky_relu(x, slope / (slope - 1.0)) * (1.0 - slope) - x.abs().sigmoid().log()
    return F.softplus(x).sub_(x, alpha=slope)


def solve_unitriangular(lower: Tensor, right: Tensor) -> Tensor:
    """x of (1 + the part of ``lower`` below its diagonal) x = ``right``.

    An export, which has no operation for it, builds the inverse of blocks of 2, 4, 8, ... rows along the diagonal, each
    from two of half the size: [[a, 0], [c, b]] has the inverse [[A, 0], [-B c A, B]]. As stable as substitution.

    Args:
      lower: (..., Q, Q).
      right: (..., Q, C).

    Returns:
      (..., Q, C).
    """
    if not is_tracing():
        return torch.linalg.solve_triangular(lower, right, upper=False, unitriangular=True)
    size = sizes(lower)[-1]
    inverse, width = torch.eye(size, device=lower.device), 1
    while width < size:
        index = torch.arange(size, device=lower.device) // width  # of the block that a row is in
        corner = (index[:, None] == index + 1) & (index % 2 == 0)
        inverse = inverse - inverse @ (lower * corner.to(lower.dtype)) @ inverse
        width *= 2
    return inverse @ right
