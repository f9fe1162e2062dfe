"""SwooshL and SwooshR (Zipformer paper, section 3.4), and the linear layer that follows them.

    SwooshL(x) = log(1 + exp(x - 4)) - 0.08 x - 0.035
    SwooshR(x) = log(1 + exp(x - 1)) - 0.08 x - 0.313261687

Both keep only their input for the backward pass and compute the derivative from it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sammo.kernels import by_triton
from sammo.kernels.linear import Linear, compute_dtype, half, product
from sammo.recording import is_tracing, softplus_above_line
from sammo.regularize.dropout import shared_dropout_mask
from sammo.regularize.schedule import FloatLike

SLOPE = 0.08
# (shift, offset): swoosh(x) = softplus(x - shift) - SLOPE * x - offset
SWOOSH_L = (4.0, 0.035)
SWOOSH_R = (1.0, 0.313261687)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _swoosh(x: Tensor, shift: float, offset: float, mask: Tensor | None = None) -> Tensor:
    """Times a mask, if given; computed in at least float32, returned in the type of ``x``."""
    if by_triton(x):
        from sammo.kernels.swoosh import swoosh

        return swoosh(x, SLOPE, shift, offset, mask)
    wide = _wide(x)
    if is_tracing():
        return softplus_above_line(wide - shift, SLOPE) - (SLOPE * shift + offset)
    y = F.softplus(wide - shift).sub_(wide, alpha=SLOPE).sub_(offset).to(x.dtype)
    return y if mask is None else y.mul_(mask)


def _swoosh_backward(
    x: Tensor, grad: Tensor, shift: float, offset: float, mask: Tensor | None = None, y: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The gradient of x, and y: what :func:`_swoosh` returned, if it was not kept."""
    if by_triton(x):
        from sammo.kernels.swoosh import swoosh_backward

        x_grad, again = swoosh_backward(x, grad, SLOPE, shift, offset, mask, with_y=y is None)
        y = again if y is None else y
        assert y is not None
        return x_grad, y
    slope = (_wide(x) - shift).sigmoid_().sub_(SLOPE)
    if mask is not None:
        slope.mul_(mask)
    return slope.mul_(grad).to(x.dtype), _swoosh(x, shift, offset, mask) if y is None else y


class _Swoosh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, shift: float, offset: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.shift = shift
        return _swoosh(x, shift, offset)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (x,) = ctx.saved_tensors
        return _swoosh_backward(x, grad, ctx.shift, 0.0, y=x)[0], None, None


def _apply(x: Tensor, constants: tuple[float, float]) -> Tensor:
    if torch.is_grad_enabled() and x.requires_grad:
        return _Swoosh.apply(x, *constants)
    return _swoosh(x, *constants)


def swoosh_l(x: Tensor) -> Tensor:
    """SwooshL of a tensor of any shape."""
    return _apply(x, SWOOSH_L)


def swoosh_r(x: Tensor) -> Tensor:
    """SwooshR of a tensor of any shape."""
    return _apply(x, SWOOSH_R)


class _ActivationDropoutLinear(torch.autograd.Function):
    """linear(swoosh(x) * mask): keeps x and the mask, and recomputes the rest in the backward pass,
    except on a CPU, where memory is not what training runs out of."""

    @staticmethod
    def forward(ctx, x, weight, bias, mask, shift, offset):
        ctx.constants = (shift, offset)
        ctx.types = weight.dtype, bias.dtype
        y = _swoosh(x, shift, offset, mask)
        dtype = compute_dtype(x)
        if dtype is not None:
            y, weight, bias = y.to(dtype), half(weight, dtype), half(bias, dtype)
        out = F.linear(y, weight, bias)
        ctx.save_for_backward(x, weight, mask, y if x.device.type == "cpu" else None)
        ctx.compute_dtype = out.dtype  # half precision under autocast
        return out

    @staticmethod
    def backward(ctx, grad):
        x, weight, mask, y = ctx.saved_tensors
        dtype, (weight_dtype, bias_dtype), (shift, offset) = ctx.compute_dtype, ctx.types, ctx.constants
        flat = grad.reshape(-1, weight.shape[0]).to(dtype)
        with torch.autocast(grad.device.type, enabled=False):
            y_grad = (flat @ weight.to(dtype)).view(x.shape)
            x_grad, y = _swoosh_backward(x, y_grad, shift, offset, mask, y)
            weight_grad = product(flat.t(), y.reshape(-1, weight.shape[1]).to(dtype), weight_dtype)
        return x_grad, weight_grad, flat.sum(dim=0, dtype=bias_dtype), None, None, None


class ActivationDropoutLinear(nn.Module):
    """Swoosh, dropout with a mask shared over time, and a linear layer, storing only the input.

    Args:
      in_channels, out_channels: of the linear layer.
      activation: "SwooshL" or "SwooshR".
      dropout: rate, may be scheduled.
      initial_scale: of weight and bias at the start of training.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        activation: str,
        dropout: FloatLike = 0.0,
        initial_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.linear = scaled_linear(in_channels, out_channels, initial_scale=initial_scale)
        self.constants: tuple[float, float] = {"SwooshL": SWOOSH_L, "SwooshR": SWOOSH_R}[activation]
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """x (N, T, in_channels) -> (N, T, out_channels)."""
        if not self.training and not torch.is_grad_enabled():
            return self.linear(_swoosh(x, *self.constants))
        mask = None
        if self.training:
            mask = shared_dropout_mask(x, float(self.dropout), 1)
        return _ActivationDropoutLinear.apply(x, self.linear.weight, self.linear.bias, mask, *self.constants)


def scaled_linear(in_features: int, out_features: int, bias: bool = True, initial_scale: float = 1.0) -> Linear:
    """A linear layer that starts ``initial_scale`` times as large as PyTorch's."""
    linear = Linear(in_features, out_features, bias=bias)
    with torch.no_grad():
        linear.weight.mul_(initial_scale)
        if bias:
            linear.bias.uniform_(-0.1 * initial_scale, 0.1 * initial_scale)
    return linear
