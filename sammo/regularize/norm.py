"""BiasNorm (Zipformer paper, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sammo.kernels import by_triton
from sammo.regularize.gradients import limit_param_value

LOG_SCALE_RANGE = (-1.5, 1.5)


class BiasNorm(nn.Module):
    """y = x / rms(x - bias) * exp(log_scale), over the last dimension.

    A layer norm takes the length of a frame away; models then keep one channel large to carry it.
    The bias lets that channel be left out of the scale instead.

    Args:
      num_channels: size of the last dimension.
      log_scale: start value, held within [-1.5, 1.5] while training.
    """

    def __init__(self, num_channels: int, log_scale: float = 1.0) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(float(log_scale)))
        self.bias = nn.Parameter(torch.empty(num_channels).normal_(std=1e-4))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., C) -> (..., C), under autocast in float32: the type of the sums it stands in."""
        if not torch.is_grad_enabled():
            length = torch.linalg.vector_norm(x - self.bias, dim=-1, keepdim=True)
            return x * (self.log_scale.exp() * float(x.shape[-1]) ** 0.5 / length)
        log_scale = self.log_scale
        if self.training:
            log_scale = limit_param_value(log_scale, *LOG_SCALE_RANGE)
        if by_triton(x):
            from sammo.kernels.norms import BiasNorm as Fused

            return Fused.apply(x, self.bias, log_scale)
        return _BiasNorm.apply(x, self.bias, log_scale)


class _BiasNorm(torch.autograd.Function):
    """Keeps the input and one scale a frame."""

    @staticmethod
    def forward(ctx, x: Tensor, bias: Tensor, log_scale: Tensor) -> Tensor:
        dtype = torch.promote_types(torch.promote_types(x.dtype, bias.dtype), torch.float32)
        length = torch.linalg.vector_norm(x - bias, dim=-1, keepdim=True, dtype=dtype)
        inverse = x.shape[-1] ** 0.5 / length  # 1 / rms
        scale = inverse * log_scale.exp()
        ctx.save_for_backward(x, bias, inverse, scale)
        return x * scale.to(torch.promote_types(x.dtype, bias.dtype))

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, bias, inverse, scale = ctx.saved_tensors
        wide = grad.to(scale.dtype)
        centered = x - bias
        along = (wide * x).sum(dim=-1, keepdim=True) * scale
        # d scale / d x = -scale * (x - bias) / (C rms^2)
        pull = centered * (along * inverse.square() * (-1.0 / x.shape[-1]))
        x_grad = torch.addcmul(pull, wide, scale)
        bias_grad = -pull.flatten(0, -2).sum(dim=0)
        return x_grad.to(x.dtype), bias_grad.to(bias.dtype), along.sum()
