"""The convolutional front-end: 80 mel bins at 100 Hz to embed frames at 50 Hz.

Images are (N, T, F, C) here; PyTorch's convolutions see them as permuted views. On a CPU channels are
last in memory too, which is the fast layout of its convolutions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sammo.cpu import FoldedSwoosh, linear
from sammo.geometry import LOOKAHEAD, embed_frames
from sammo.kernels.linear import Linear
from sammo.recording import as_rows, hide, is_recording, sizes
from sammo.regularize import (
    ActivationDropoutLinear,
    Balancer,
    BiasNorm,
    ScheduledFloat,
    SharedDropout,
    Whiten,
    scale_grad,
    sequence_mask,
    swoosh_r,
)

CONVNEXT_KERNEL = 2 * LOOKAHEAD + 1
HIDDEN_RATIO = 3


class ConvNeXt(nn.Module):
    """Depthwise 7 x 7 convolution and two pointwise ones around a bypass (arXiv:2206.14747).

    Args:
      channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels * HIDDEN_RATIO
        self.depthwise = nn.Conv2d(channels, channels, CONVNEXT_KERNEL, padding=LOOKAHEAD, groups=channels)
        self.in_proj = Linear(channels, hidden)
        self.balancer1 = Balancer(hidden, min_positive=0.3, max_positive=1.0, min_abs=0.75, max_abs=5.0)
        self.out_proj = ActivationDropoutLinear(hidden, channels, "SwooshL", initial_scale=0.01)
        self.balancer2 = Balancer(channels, min_positive=0.4, max_positive=0.6, min_abs=1.0, max_abs=6.0)
        self.whiten = Whiten(1, 5.0)
        self.skip_rate = ScheduledFloat((0.0, 0.2), (20000.0, 0.015))
        self._swoosh = FoldedSwoosh()

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """x (N, T, F, C) -> (N, T, F, C), or with a state (N, 3, F, C), (N, T - 3, F, C), next state.

        Without a state the input is the whole utterance and zeros stand before and after it. With
        one, the last 3 frames of x are look-ahead: they come first in the next call.
        """
        if state is None:
            y = self._convolve(x, LOOKAHEAD)
        else:
            padded = torch.cat([state, x], dim=1)
            x = x[:, :-LOOKAHEAD]
            frames = sizes(x)[1]
            state = padded[:, frames : frames + LOOKAHEAD]
            y = self._convolve(padded, 0)
        y = self._swoosh.between(as_rows(y), self.in_proj, self.balancer1, self.out_proj)
        mask = sequence_mask(x, float(self.skip_rate))
        x = (as_rows(x) + (y if mask is None else y * mask.unsqueeze(-1))).view(sizes(x))
        return self.whiten(self.balancer2(x)), state

    def _convolve(self, x: Tensor, padding: int) -> Tensor:
        """The depthwise convolution of x (N, T, F, C) with so many zeros before and after in time."""
        weight = self.depthwise.weight
        if weight.requires_grad and torch.is_grad_enabled():
            # A convolution of channels-last input gives its weight's gradient other strides, in the dimension of size 1
            # alone: PyTorch keeps them, and DistributedDataParallel warns of them. Passing here, it loses them.
            weight = weight.flatten().view_as(weight)
        image, channels = x.permute(0, 3, 1, 2), weight.shape[0]
        y = F.conv2d(image, weight, self.depthwise.bias, padding=(padding, LOOKAHEAD), groups=channels)
        return y.permute(0, 2, 3, 1)


class Frontend(nn.Module):
    """Three 3 x 3 convolutions with SwooshR, ConvNeXt, a projection and BiasNorm.

    Args:
      feature_dim: mel bins.
      channels: of the three convolutions.
      out_dim: width of an embed frame.
      mask_padding: zero what the convolutions compute beyond an utterance's end, so that padding
        cannot reach valid frames through the ConvNeXt block.
    """

    def __init__(self, feature_dim: int, channels: tuple[int, int, int], out_dim: int, mask_padding: bool) -> None:
        super().__init__()
        self.mask_padding = mask_padding
        first, second, third = channels
        self.conv1 = nn.Conv2d(1, first, 3, padding=(0, 1))
        self.conv2 = nn.Conv2d(first, second, 3, stride=2)
        self.conv3 = nn.Conv2d(second, third, 3, stride=(1, 2))
        self.balancer1 = Balancer(first, channel_dim=1, max_abs=1.0)
        self.balancer2 = Balancer(second, channel_dim=1, max_abs=4.0)
        self.balancer3 = Balancer(third, channel_dim=1, max_abs=4.0)
        self.convnext = ConvNeXt(third)
        self.out_width = ((feature_dim - 1) // 2 - 1) // 2
        self.out = nn.Linear(self.out_width * third, out_dim)  # inputs ordered (F, C)
        self.whiten = Whiten(1, ScheduledFloat((0.0, 4.0), (20000.0, 8.0), default=4.0), grad_scale=0.02)
        self.norm = BiasNorm(out_dim)
        self.dropout = SharedDropout(ScheduledFloat((0.0, 0.3), (20000.0, 0.1)), shared_dim=1)

    def forward(
        self, features: Tensor, lengths: Tensor, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Embed features.

        Args:
          features: (N, T, 80), T at least 9.
          lengths: (N,) valid feature frames.
          state: (N, 3, F, C). With it T must be 2 * n + 13, and the n embed frames are returned that the next
            window does not compute again.

        Returns:
          (N, (T - 7) // 2, out_dim), or with a state (N, (T - 13) // 2, out_dim); the lengths in
          embed frames; the next state.
        """
        x = self._convolve(features.unsqueeze(1))
        x = x.permute(0, 2, 3, 1)  # (N, T', F, C)
        lengths = embed_frames(lengths)
        frames = sizes(x)[1]
        if self.mask_padding and not all_full(lengths, frames):
            beyond = torch.arange(frames, device=x.device) >= on_device(lengths, x)[:, None]
            x = hide(x, beyond[:, :, None, None], 0.0)
        x, state = self.convnext(x, state)
        if state is not None:
            lengths = lengths.clamp(max=sizes(x)[1])
        num, frames, width, channels = sizes(x)
        x = linear(as_rows(x.reshape(num, frames, width * channels)), self.out.weight, self.out.bias)
        if self.training:
            x = self.dropout(self.norm(self.whiten(x)))
        else:
            x = self.norm(x)
        return x.view(num, frames, self.out.out_features), lengths, state

    def _convolve(self, x: Tensor) -> Tensor:
        """(N, 1, T, 80) -> (N, C, (T - 7) // 2, 19), on a CPU channels last in memory."""
        layout = torch.channels_last if x.device.type == "cpu" else torch.contiguous_format
        x = self.conv1(x).contiguous(memory_format=layout)
        if self.training:
            # Keeps the first layer's gradient within the range of half precision.
            x = self.balancer1(scale_grad(x, 0.2))
        x = self.conv2(swoosh_r(x))
        if self.training:
            x = self.balancer2(x)
        x = self.conv3(swoosh_r(x))
        if self.training:
            x = self.balancer3(x)
        return swoosh_r(x).contiguous(memory_format=layout)

    def init_state(self, batch: int) -> Tensor:
        """The last inputs of the ConvNeXt block: (N, 3, F, C) zeros."""
        return torch.zeros(batch, LOOKAHEAD, self.out_width, self.conv3.out_channels)


def all_full(lengths: Tensor, frames: int) -> bool:
    """Whether all sequences are known to have ``frames`` frames. False for lengths on a GPU, which one would have to wait
    for, and while an export is recorded, whose graph has to serve any lengths."""
    return lengths.device.type == "cpu" and not is_recording() and bool((lengths >= frames).all())


def on_device(lengths: Tensor, x: Tensor) -> Tensor:
    """``lengths`` on the device of x, without waiting for it."""
    return lengths.to(x.device, non_blocking=True)
