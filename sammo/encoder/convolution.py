"""The chunk-wise causal depthwise convolution of Zipformer, and the convolution module around it. All is (N, T, C)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sammo.cpu import DerivedWeights, FoldedSwoosh, OneChunk, depthwise_conv, linear
from sammo.encoder.plan import Plan
from sammo.kernels import by_triton
from sammo.recording import as_frames, hide, is_tracing, join_past, sizes
from sammo.regularize import ActivationDropoutLinear, Balancer, ScheduledFloat, Whiten
from sammo.regularize.gradients import TINY
from sammo.regularize.schedule import whitening_schedule


class ChunkCausalConv(nn.Module):
    """Depthwise convolution whose outputs see nothing after the end of their chunk (as in Zipformer's published code).

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
        assert self.causal.bias is not None
        nn.init.uniform_(self.causal.bias, -0.1, 0.1)
        # Added to 1: [0] from the left edge of the chunk on, [1] up to its right edge.
        self.edge_scale = nn.Parameter(torch.zeros(2, channels, kernel))
        self._one_chunk, self._derived = OneChunk(), DerivedWeights()

    def forward(self, x: Tensor, plan: Plan, state: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """x (N, T, C), the frames before it (N, K // 2, C) -> (N, T, C), the next state."""
        num, frames, channels = sizes(x)
        if state is None and by_triton(x):
            from sammo.kernels.chunk_conv import ChunkConv

            causal, within = self.causal, self.within
            weights = causal.weight, causal.bias, within.weight, within.bias, self.edge_scale
            return ChunkConv.apply(x, *weights, plan.chunk, plan.ends), None
        sources = F.pad(x, (0, 0, self.past_frames, 0)) if state is None else torch.cat([state, x], dim=1)
        state = None if state is None else sources[:, frames:]
        if self._one_chunk.takes(x, plan, self.past_frames):
            return self._one_chunk(self, sources), state
        causal = depthwise_conv(sources, self.causal.weight, self.causal.bias)
        blocks = x.reshape(-1, plan.chunk, channels)
        within = depthwise_conv(blocks, self.within.weight, self.within.bias, self.kernel // 2)
        if plan.ends is not None:
            return torch.addcmul(causal, within, self._own_scale(plan.ends, frames)), state
        scale = self._derived(plan.chunk, lambda: self.scale(plan.chunk), self.edge_scale)
        # reshape, not view: on CUDA the convolutions return transposed tensors, whose frames do not split into chunks.
        out = torch.addcmul(causal.reshape(-1, plan.chunk, channels), within, scale)
        return out.reshape(num, frames, channels), state

    def recorded(self, x: Tensor, plan: Plan, state: Tensor, lowered: float) -> tuple[Tensor, Tensor]:
        """One chunk in the graph of an export, whose convolutions see images (N, C, 1, T): x (N * T, C) and the state
        (N, K // 2, C) -> the output minus ``lowered``, (N * T, C), and the next state."""
        frames, channels, past_frames = plan.frames, sizes(x)[1], self.past_frames
        keep = None if plan.padding is None else (~plan.padding).to(x.dtype)  # (N, T, 1)
        if state.stride(2) == 1:
            flat = x.reshape(1, -1, frames * channels)
            if keep is not None:
                flat = flat * (keep * torch.ones(channels)).reshape(1, -1, frames * channels)
            sources, state = join_past(flat, state)
            image = sources[..., past_frames:]
        else:  # the graph holds its transpose (N, C, K // 2), as a zipformer2's does
            image = x.reshape(-1, 1, frames, channels)
            image = (image if keep is None else image * keep.unsqueeze(1)).permute(0, 3, 1, 2)
            sources = torch.cat([state.transpose(1, 2).unsqueeze(2), image], dim=3)
            state = sources[..., frames:].squeeze(2).transpose(1, 2)
        causal, within = self.causal, self.within
        assert causal.bias is not None
        past = F.conv2d(sources, causal.weight.unsqueeze(2), causal.bias - lowered, groups=channels)
        padding = (0, self.kernel // 2)
        here = F.conv2d(image, within.weight.unsqueeze(2), within.bias, padding=padding, groups=channels)
        scale = self._derived(("image", frames), lambda: self.scale(frames).t()[:, None].contiguous(), self.edge_scale)
        return torch.addcmul(past, here, scale).permute(0, 2, 3, 1).reshape(-1, channels), state

    def init_state(self, batch: int) -> Tensor:
        """The frames before: (N, K // 2, C) zeros."""
        return torch.zeros(batch, self.past_frames, self.causal.in_channels)

    def scale(self, chunk: int) -> Tensor:
        """Factors (chunk, C) of the convolution within a chunk."""
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
        self._swoosh = FoldedSwoosh()

    def forward(self, x: Tensor, plan: Plan, state: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """x (N, T, C), the convolution's inputs before (N, K // 2, C) -> (N, T, C), the next state."""
        projected = linear(x, self.in_proj.weight, self.in_proj.bias)
        if is_tracing() and state is not None and plan.ends is None and plan.chunk == plan.frames:
            return self._recorded(projected, plan, state)
        x = self._gated(projected, plan)
        x, state = self.conv(x, plan, state)
        x = self.whiten(self.balancer2(x)).reshape(*sizes(projected)[:-1], sizes(x)[-1])
        return self._swoosh.after(x, self.out_proj), state

    def _gated(self, x: Tensor, plan: Plan) -> Tensor:
        """(N, T, 2 C), values and gates -> (N, T, C), zero beyond the ends of utterances."""
        if by_triton(x):
            from sammo.kernels.gate import Gated

            edit = self.balancer1.draw(x)
            return Gated.apply(x, plan.padding, None if edit is None else (*edit, TINY))
        value, gate = x.split(self.in_proj.out_features // 2, dim=-1)
        x = as_frames(value * torch.sigmoid(self.balancer1(gate)), plan)
        return x if plan.padding is None else hide(x, plan.padding, 0.0)

    def _recorded(self, projected: Tensor, plan: Plan, state: Tensor) -> tuple[Tensor, Tensor]:
        """What follows the first layer in the graph of an export."""
        value, gate = projected.split(self.out_proj.linear.in_features, dim=-1)
        x, state = self.conv.recorded(value * gate.sigmoid(), plan, state, self.out_proj.constants[0])
        return self._swoosh.lowered(x, self.out_proj), state

    def init_state(self, batch: int) -> Tensor:
        """The last inputs of the convolution: (N, K // 2, C) zeros."""
        return self.conv.init_state(batch)
