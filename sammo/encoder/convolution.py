"""Depthwise convolution in time, its chunk-wise causal form, and the convolution module.

Everything is (N, T, C). For the depthwise kernels of CPUs that is the channels-last layout, where
they are several times faster than over (N, C, T).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sammo.encoder.derived import DerivedWeights
from sammo.encoder.linear import is_recording, linear
from sammo.encoder.plan import Plan
from sammo.regularize import ActivationDropoutLinear, Balancer, ScheduledFloat, Whiten
from sammo.regularize.activations import SLOPE, SWOOSH_R
from sammo.regularize.schedule import whitening_schedule

# Products of one convolution below which ChunkCausalConv computes them one by one.
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
        return _DepthwiseConv.apply(x, weight.to(x.dtype), bias.to(x.dtype), padding)
    return _channels_last_conv(x, weight, bias, padding)


def _channels_last_conv(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    image = x.unsqueeze(1).permute(0, 3, 1, 2)  # (N, C, 1, T), channels last
    out = F.conv2d(
        image, weight.unsqueeze(2), bias, padding=(0, padding), groups=weight.shape[0]
    )
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
            torch.mul(padded[:, tap : tap + frames], grad, out=product).flatten(0, 1).sum(dim=0)
            for tap in range(taps)
        ]
        weight_grad = torch.stack(rows, dim=-1).unsqueeze(1)
        bias_grad = grad.flatten(0, 1).sum(dim=0) if ctx.needs_input_grad[2] else None
        return x_grad, weight_grad, bias_grad, None


class ChunkCausalConv(nn.Module):
    """Depthwise convolution of which no output sees past the end of its chunk (Zipformer's code).

    The sum of a causal convolution of half the width, over everything before, and one of the full
    width within the chunk, scaled by learned factors near the edges of the chunk.

    Args:
      channels: C.
      kernel: full width K, odd.
    """

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.past_frames = kernel // 2
        self.causal = nn.Conv1d(channels, channels, kernel // 2 + 1, groups=channels)
        self.within = nn.Conv1d(channels, channels, kernel, groups=channels)
        nn.init.uniform_(self.causal.bias, -0.1, 0.1)
        # Added to 1: [0] from the left edge of the chunk on, [1] up to its right edge.
        self.edge_scale = nn.Parameter(torch.zeros(2, channels, kernel))
        self._derived = DerivedWeights()

    def forward(
        self, x: Tensor, plan: Plan, state: Tensor | None = None, shift: float = 0.0
    ) -> tuple[Tensor, Tensor | None]:
        """x (N, T, C), the frames before it (N, K // 2, C) -> (N, T, C) minus ``shift``, the next state."""
        num, frames, channels = x.shape
        if plan.chunk == frames and plan.ends is None and not torch.is_grad_enabled():
            if x.numel() * (frames + self.past_frames) <= FEW_PRODUCTS and not is_recording():
                return self._one_chunk(x, state, shift)
        if state is None:
            padded = F.pad(x, (0, 0, self.past_frames, 0))
        else:
            padded = torch.cat([state, x], dim=1)
            state = padded[:, frames:]
        bias = self.causal.bias
        if shift:
            bias = self._derived("bias", lambda: self.causal.bias - shift, bias)
        causal = depthwise_conv(padded, self.causal.weight, bias)
        blocks = x.reshape(-1, plan.chunk, channels)
        within = depthwise_conv(blocks, self.within.weight, self.within.bias, self.kernel // 2)
        if plan.ends is not None:
            return torch.addcmul(causal, within, self._own_scale(plan.ends, frames)), state
        scale = self._derived(plan.chunk, lambda: self._scale(plan.chunk), self.edge_scale)
        # reshape, not view: on CUDA the convolutions return transposed tensors, whose frames do not split into chunks.
        out = torch.addcmul(causal.reshape(within.shape), within, scale)
        return out.reshape(num, frames, channels), state

    def init_state(self, batch: int) -> Tensor:
        """The frames before: (N, K // 2, C) zeros."""
        return torch.zeros(batch, self.past_frames, self.causal.in_channels)

    def _one_chunk(
        self, x: Tensor, state: Tensor | None, shift: float
    ) -> tuple[Tensor, Tensor | None]:
        """The same for so little input that starting two convolutions would take longer than one
        sum of products over all frames that are there."""
        frames, reach = x.shape[1], self.past_frames
        weight, bias = self._derived(
            ("one chunk", frames, shift),
            lambda: self._one_chunk_weights(frames, shift),
            self.causal.weight,
            self.causal.bias,
            self.within.weight,
            self.within.bias,
            self.edge_scale,
        )
        before = x.new_zeros(x.shape[0], reach, x.shape[2]) if state is None else state
        sources = torch.cat([before, x], dim=1)
        out = (sources.unsqueeze(1) * weight).sum(dim=2).add_(bias)
        return out, None if state is None else sources[:, frames:]

    def _one_chunk_weights(self, frames: int, shift: float) -> tuple[Tensor, Tensor]:
        """Weights (target T, source K // 2 + T, C) and biases (T, C) of both convolutions."""
        scale = self._scale(frames)
        target = torch.arange(frames, device=scale.device)[:, None]
        source = torch.arange(-self.past_frames, frames, device=scale.device)
        tap = source - target + self.past_frames  # of the kernel that is centered on the target
        inside = (tap >= 0) & (tap < self.kernel) & (source >= 0)
        before = (tap >= 0) & (tap <= self.past_frames)
        # The row that is added to each kernel stands for the frames that it does not see.
        within = F.pad(self.within.weight[:, 0].t(), (0, 0, 0, 1))[tap.where(inside, -1)]
        causal = F.pad(self.causal.weight[:, 0].t(), (0, 0, 0, 1))[tap.where(before, -1)]
        weight = within * scale[:, None] + causal
        return weight, self.within.bias * scale + self.causal.bias - shift

    def _scale(self, chunk: int) -> Tensor:
        """(chunk, C)."""
        left, right = self.edge_scale.transpose(1, 2)  # (K, C) each
        if chunk < self.kernel:
            return 1.0 + left[:chunk] + right[-chunk:]
        rest = chunk - self.kernel
        return 1.0 + F.pad(left, (0, 0, 0, rest)) + F.pad(right, (0, 0, rest, 0))

    def _own_scale(self, ends: Tensor, frames: int) -> Tensor:
        """(N, T, C) for utterances that are one chunk each, ending at ``ends``."""
        left, right = self.edge_scale.transpose(1, 2)
        if frames < self.kernel:
            left = left[:frames]
        else:
            left = F.pad(left, (0, 0, 0, frames - self.kernel))
        # Frame t of an utterance of length L is row t - (L - K) of `right`; rows outside are zero.
        index = torch.arange(frames, device=ends.device) - (ends[:, None] - self.kernel)
        index = torch.where((index >= 0) & (index < self.kernel), index, self.kernel)
        return 1.0 + left + F.embedding(index, F.pad(right, (0, 0, 0, 1)))


class ConvModule(nn.Module):
    """linear, gated linear unit, chunk-causal depthwise convolution, SwooshR, linear.

    Args:
      dim: width of input and output.
      kernel: width of the convolution, odd.
    """

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(dim, 2 * dim)
        self.balancer1 = Balancer(
            dim,
            min_positive=ScheduledFloat((0.0, 0.05), (8000.0, 0.025)),
            max_positive=1.0,
            min_abs=1.5,
            max_abs=ScheduledFloat((0.0, 5.0), (8000.0, 10.0), default=1.0),
        )
        self.conv = ChunkCausalConv(dim, kernel)
        self.balancer2 = Balancer(
            dim,
            min_positive=ScheduledFloat((0.0, 0.1), (8000.0, 0.05)),
            max_positive=1.0,
            min_abs=ScheduledFloat((0.0, 0.2), (20000.0, 0.5)),
            max_abs=10.0,
        )
        self.whiten = Whiten(1, whitening_schedule(7.5))
        self.out_proj = ActivationDropoutLinear(dim, dim, "SwooshR", initial_scale=0.05)
        self._derived = DerivedWeights()

    def forward(
        self, x: Tensor, plan: Plan, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """x (N, T, C), state (N, K // 2, C) -> (N, T, C), next state."""
        x = linear(x, self.in_proj.weight, self.in_proj.bias)
        if self.training:
            value, gate = x.chunk(2, dim=-1)
            x = value * torch.sigmoid(self.balancer1(gate))
        else:
            x = F.glu(x, dim=-1)
        if plan.padding is not None:
            x = x.masked_fill(plan.padding, 0.0)
        if torch.is_grad_enabled() or self.training:
            x, state = self.conv(x, plan, state)
            return self.out_proj(self.whiten(self.balancer2(x))), state
        # SwooshR's shift and offset move into the biases before and after it.
        shift, offset = SWOOSH_R
        x, state = self.conv(x, plan, state, shift)
        outer = self.out_proj.linear
        bias = self._derived(
            "out",
            lambda: outer.bias - (SLOPE * shift + offset) * outer.weight.sum(dim=1),
            outer.weight,
            outer.bias,
        )
        return linear(F.softplus(x).sub_(x, alpha=SLOPE), outer.weight, bias), state

    def init_state(self, batch: int) -> Tensor:
        """The last inputs of the convolution: (N, K // 2, C) zeros."""
        return self.conv.init_state(batch)
