"""Activations with fewer passes over their values."""

from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor, nn

from sammo.cpu.derived import DerivedWeights
from sammo.cpu.linear import linear
from sammo.recording import is_recording, softplus_above_line
from sammo.regularize import ActivationDropoutLinear
from sammo.regularize.activations import SLOPE


class FoldedSwoosh:
    """Swoosh(x) = softplus(x - shift) - SLOPE x - offset before a linear layer, and maybe after one.

    In inference the constants move into the layers' biases, so that two elementwise operations remain.
    """

    def __init__(self) -> None:
        self._derived = DerivedWeights()

    def after(self, x: Tensor, outer: ActivationDropoutLinear) -> Tensor:
        """outer(x): (..., C_in) -> (..., C_out)."""
        if torch.is_grad_enabled() or outer.training:
            return outer(x)
        return self.lowered(x - outer.constants[0], outer)

    def between(
        self, x: Tensor, inner: nn.Linear, edit: Callable[[Tensor], Tensor], outer: ActivationDropoutLinear
    ) -> Tensor:
        """outer(edit(inner(x))), where ``edit`` acts on gradients only."""
        if torch.is_grad_enabled() or outer.training:
            return outer(edit(inner(x)))
        shift = outer.constants[0]
        return self.lowered(
            linear(x, inner.weight, self._derived("inner", lambda: inner.bias - shift, inner.bias)), outer
        )

    def lowered(self, x: Tensor, outer: ActivationDropoutLinear) -> Tensor:
        """outer(x + shift), in inference: of who has taken the shift into a bias."""
        shift, offset = outer.constants
        weight, bias, constant = outer.linear.weight, outer.linear.bias, SLOPE * shift + offset
        bias = self._derived("outer", lambda: bias - constant * weight.sum(dim=1), weight, bias)
        return linear(softplus_above_line(x, SLOPE), weight, bias)


def tanh(x: Tensor) -> Tensor:
    """tanh(x) of a tensor of any shape; in inference on CPUs by the sigmoid, which is six times as fast."""
    if torch.is_grad_enabled() or x.device.type != "cpu" or is_recording():
        return torch.tanh(x)
    return torch.sigmoid(2.0 * x).mul_(2.0).sub_(1.0)
