"""Depthwise convolutions over (N, T, C), and Zipformer's chunk-wise one for very little input.

For the depthwise kernels of CPUs (N, T, C) is the channels-last layout, where they are several times faster than over
(N, C, T).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from sammo.cpu.derived import DerivedWeights
from sammo.recording import is_recording

if TYPE_CHECKING:
    from sammo.encoder.convolution import ChunkCausalConv
    from sammo.encoder.plan import Plan

# Products of one convolution below which OneChunk computes them one by one.
FEW_PRODUCTS = 400_000


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int = 0) -> Tensor:
    """Depthwise convolution over time.

    Args:
      x: (N, T, C).
      weight: (C, 1, K).
      bias: (C,).
      padding: zeros put before and after.

    Returns:
      (N, T + 2 * padding - K + 1, C).
    """
    if x.is_cuda:
        out = F.conv1d(x.transpose(1, 2), weight, bias, padding=padding, groups=x.shape[-1])
        return out.transpose(1, 2)
    if torch.is_grad_enabled():
        return _DepthwiseConv.apply(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype), padding)
    return _channels_last_conv(x, weight, bias, padding)


def _channels_last_conv(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    image = x.unsqueeze(1).permute(0, 3, 1, 2)  # (N, C, 1, T), channels last
    out = F.conv2d(image, weight.unsqueeze(2), bias, padding=(0, padding), groups=weight.shape[0])
    return out.permute(0, 2, 3, 1).squeeze(1)


class _DepthwiseConv(torch.autograd.Function):
    """The backward pass of the general convolution takes 40 times the forward one for this shape;
    the weight's gradient is faster as one product and sum per tap."""

    @staticmethod
    def forward(ctx, x, weight, bias, padding):
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return _channels_last_conv(x, weight, bias, padding)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        taps, padding = weight.shape[-1], ctx.padding
        grad = grad.contiguous().to(weight.dtype)  # half precision under autocast
        x_grad = None
        if ctx.needs_input_grad[0]:
            x_grad = _channels_last_conv(grad, weight.flip(-1), None, taps - 1 - padding).to(x.dtype)
        padded = F.pad(x, (0, 0, padding, padding)) if padding else x
        frames = grad.shape[1]
        product = torch.empty_like(grad)
        rows = [
            torch.mul(padded[:, tap : tap + frames], grad, out=product).flatten(0, 1).sum(dim=0) for tap in range(taps)
        ]
        weight_grad = torch.stack(rows, dim=-1).unsqueeze(1)
        bias_grad = grad.flatten(0, 1).sum(dim=0) if ctx.needs_input_grad[2] else None
        return x_grad, weight_grad, bias_grad, None


class OneChunk:
    """A chunk-causal convolution of so little input that starting its two convolutions would take longer than one sum
    of products over all frames that are there."""

    def __init__(self) -> None:
        self._derived = DerivedWeights()

    def takes(self, x: Tensor, plan: Plan, past_frames: int) -> bool:
        """Whether x (N, T, C) is one chunk, and so little."""
        if is_recording():
            return False
        frames = x.shape[1]
        if torch.is_grad_enabled() or plan.chunk != frames or plan.ends is not None:
            return False
        return x.numel() * (frames + past_frames) <= FEW_PRODUCTS

    def __call__(self, conv: ChunkCausalConv, sources: Tensor) -> Tensor:
        """sources (N, K // 2 + T, C), the chunk and the frames before it -> (N, T, C)."""
        frames = sources.shape[1] - conv.past_frames
        weight, bias = self._derived(frames, lambda: _products(conv, frames), *conv.parameters())
        return (sources.unsqueeze(1) * weight).sum(dim=2).add_(bias)


def _products(conv: ChunkCausalConv, frames: int) -> tuple[Tensor, Tensor]:
    """Weights (target T, source K // 2 + T, C) and biases (T, C) of both convolutions."""
    scale, reach = conv.scale(frames), conv.past_frames
    within_bias, causal_bias = conv.within.bias, conv.causal.bias
    assert within_bias is not None and causal_bias is not None
    target = torch.arange(frames, device=scale.device)[:, None]
    source = torch.arange(-reach, frames, device=scale.device)
    tap = source - target + reach  # of the kernel that is centered on the target
    inside = (tap >= 0) & (tap < conv.kernel) & (source >= 0)
    before = (tap >= 0) & (tap <= reach)
    # The row that is added to each kernel stands for the frames that it does not see.
    within = F.pad(conv.within.weight[:, 0].t(), (0, 0, 0, 1))[tap.where(inside, -1)]
    causal = F.pad(conv.causal.weight[:, 0].t(), (0, 0, 0, 1))[tap.where(before, -1)]
    return within * scale[:, None] + causal, within_bias * scale + causal_bias
