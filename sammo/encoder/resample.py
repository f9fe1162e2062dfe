"""Bypass, and down- and upsampling of whole stacks (Zipformer paper, sections 3.1 and 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sammo.encoder.residual import copy_dtype
from sammo.kernels import by_triton
from sammo.recording import is_tracing, sizes
from sammo.regularize import FloatLike, ScheduledFloat, limit_param_value, sequence_mask


class Bypass(nn.Module):
    """original + (x - original) * scale, with a learned scale per channel.

    Early in training the scale is held close to 1, so that every module learns something, and
    whole sequences skip the module at random (layer drop).

    Args:
      dim: C.
      skip_rate: probability that a sequence takes ``original`` alone.
    """

    def __init__(self, dim: int, skip_rate: FloatLike = 0.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((dim,), 0.5))
        self.scale_min = ScheduledFloat((0.0, 0.9), (20000.0, 0.2), default=0.0)
        self.skip_rate = skip_rate

    def forward(self, original: Tensor, x: Tensor, factor: int = 1) -> Tensor:
        """Two tensors (N, T, C), or of shapes that broadcast -> the same shape. With a factor x is (N, ceil(T / factor),
        C), and each of its frames stands for ``factor`` frames."""
        return self._combine(original, x, factor, None)[0]

    def with_copy(self, original: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`forward` of two tensors (N, T, C), and a copy of it for products, see :mod:`sammo.encoder.residual`."""
        return self._combine(original, x, 1, copy_dtype(original))

    def _combine(self, original: Tensor, x: Tensor, factor: int, half: torch.dtype | None) -> tuple[Tensor, Tensor]:
        scale, mask = self.scale, None
        if self.training:
            scale = limit_param_value(scale, float(self.scale_min), 1.0)
            mask = sequence_mask(original, float(self.skip_rate))
        # Sums stay in float32 under autocast, whose half-precision terms come in here.
        dtype = torch.promote_types(original.dtype, scale.dtype)
        if by_triton(original) and original.ndim == 3 and (factor > 1 or original.shape == x.shape):
            from sammo.kernels.residual import Bypass as Fused

            found = Fused.apply(original.to(dtype), x, scale, mask, factor, half)
            return (found, found) if half is None else found
        if factor > 1:
            x = x.repeat_interleave(factor, dim=1)[:, : sizes(original)[1]]
        if mask is not None:
            scale = scale * mask
        original, x, scale = original.to(dtype), x.to(dtype), scale.to(dtype)
        if is_tracing():  # an export of lerp computes it in two ways and takes one
            found = torch.addcmul(original, x - original, scale)
        else:
            found = torch.lerp(original, x, scale)
        return found, found


class Downsample(nn.Module):
    """Weighted mean of each ``factor`` frames, with learned weights.

    Args:
      factor: frames in per frame out.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.bias = nn.Parameter(torch.zeros(factor))

    def forward(self, x: Tensor, ends: Tensor | None) -> Tensor:
        """Downsample, repeating the last frame of a sequence as often as needed.

        Args:
          x: (N, T, C).
          ends: (N,) lengths, or None if every sequence has T frames.

        Returns:
          (N, ceil(T / factor), C).
        """
        factor, (num, frames, channels) = self.factor, sizes(x)
        weights = self.bias.softmax(dim=0)
        if by_triton(x) and factor & (factor - 1) == 0:
            from sammo.kernels.downsample import Mean

            return Mean.apply(x, weights, ends)
        weights = weights.to(x.dtype)
        extra = -frames % factor
        if extra:
            x = F.pad(x, (0, 0, 0, extra))
            if ends is None:
                ends = torch.full((1,), frames, device=x.device)
        groups = (frames + extra) // factor
        x = x.reshape(num, groups, factor, channels)
        if ends is not None:
            weights = self._end_weights(weights, ends, groups)
        return (x * weights.unsqueeze(-1)).sum(dim=2)

    def _end_weights(self, weights: Tensor, ends: Tensor, groups: int) -> Tensor:
        """(N, groups, factor): the last frame before an end also takes the weights after it."""
        position = torch.arange(self.factor, device=weights.device)
        last = ends[:, None] - 1 - torch.arange(0, groups * self.factor, self.factor, device=ends.device)
        last = last.clamp(0, self.factor - 1)[:, :, None]  # the last frame there is, in each group
        rest = weights.flip(0).cumsum(0).flip(0)  # weight of a frame and all after it
        return torch.where(position < last, weights, torch.where(position == last, rest, 0.0))


class UpsampleCombine(nn.Module):
    """Repeat each frame ``factor`` times and combine with what was downsampled, by a bypass.

    Args:
      dim: C.
      factor: frames out per frame in.
    """

    def __init__(self, dim: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.bypass = Bypass(dim)

    def forward(self, original: Tensor, x: Tensor) -> Tensor:
        """original (N, T, C), x (N, ceil(T / factor), C) -> (N, T, C)."""
        num, frames, channels = sizes(original)
        if self.training or frames % self.factor:
            return self.bypass(original, x, self.factor)
        grouped = original.reshape(num, frames // self.factor, self.factor, channels)
        return self.bypass(grouped, x.unsqueeze(2)).view(num, frames, channels)
