"""What mixers with a recurrent state share: heads that decay, the short convolution, the gated norm."""

from __future__ import annotations

import math
from typing import Callable, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sammo.encoder.causal_conv import CONV_ENGINES, causal_conv
from sammo.encoder.mixers.base import Mixer
from sammo.errors import UserError
from sammo.kernels import by_triton
from sammo.recording import is_tracing
from sammo.regularize import Whiten
from sammo.regularize.schedule import whitening_schedule

# How Mamba starts (mamba-ssm's defaults): step sizes spread log-uniformly over the first range, decay rates A uniformly
# over the second. The time constants 1 / (dt A) then have a median of a dozen frames.
MAMBA_DT_RANGE = (1e-3, 1e-1)
MAMBA_DECAY_RANGE = (1.0, 16.0)
# How a block starts whose time constants are given: a head that forgets slowly does so by a small A, not by a small
# step, because the step of Mamba-2 is also the weight with which each frame is written into the state.
DT_RANGE = (5e-2, 5e-1)
NORM_EPS = 1e-5


class RecurrentMixer(Mixer):
    """A mixer of heads whose states decay by exp(-softplus(dt + dt_bias) exp(A_log)) a frame; dt comes from the input.

    A subclass makes ``conv1d`` (depthwise), ``dt_bias``, ``A_log`` and ``out_proj``, names the ``divisors`` of its hidden width
    and implements :meth:`decay`. ``conv_engine`` chooses who computes the convolution, see
    :func:`sammo.encoder.causal_conv.causal_conv`.
    """

    options = ("mamba_expand", "mamba_conv_kernel", "mamba_conv_bias", "mamba_time_constants", "mamba_output_scale")
    engines = {"conv": CONV_ENGINES}
    dynamics = ("A_log", "dt_bias")
    divisors: ClassVar[tuple[str, ...]]  # options whose product, times ``multiple``, divides the hidden width
    multiple: ClassVar[int] = 1
    conv_engine = "auto"
    conv1d: nn.Conv1d
    dt_bias: nn.Parameter
    A_log: nn.Parameter
    out_proj: nn.Linear

    def __init__(self) -> None:
        super().__init__()
        self.whiten = Whiten(1, whitening_schedule(5.0, ratio=3.0))

    @classmethod
    def check(cls, config) -> None:
        for name in ("mamba_conv_kernel", "d_state", *cls.divisors):
            if getattr(config, name) < 1:
                raise UserError(f"{name} {getattr(config, name)} must be positive")
        divisor = cls.multiple * math.prod(getattr(config, name) for name in cls.divisors)
        for dim in config.encoder_dim:
            inner = cls.inner_dim(config, dim)
            if inner < 1 or inner % divisor:
                names = " x ".join(f"{name} {getattr(config, name)}" for name in cls.divisors)
                raise UserError(
                    f"mamba_expand {config.mamba_expand} x encoder_dim {dim} = {config.mamba_expand * dim:g} is not a "
                    f"multiple of {names}" + (f" x {cls.multiple}" if cls.multiple > 1 else "")
                )
        times = config.mamba_time_constants
        if times and not (len(times) == 2 and 0 < times[0] <= times[1]):
            raise UserError(f"mamba_time_constants {times}: give the shortest and the longest in seconds, or neither")

    @staticmethod
    def sizes(config) -> dict[str, int]:
        """Constructor arguments that only this class has."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, config, stack):
        dim = config.encoder_dim[stack]
        make = cast("Callable[..., RecurrentMixer]", cls)  # a subclass, whose arguments these are
        block = make(
            dim,
            cls.inner_dim(config, dim),
            conv_kernel=config.mamba_conv_kernel,
            time_constants=config.time_constants_in_frames(stack),
            conv_bias=config.mamba_conv_bias,
            **cls.sizes(config),
        )
        with torch.no_grad():
            block.out_proj.weight.mul_(config.mamba_output_scale)
        return block

    @staticmethod
    def inner_dim(config, dim: int) -> int:
        """Hidden width in a layer of this width; 0 if it is not whole."""
        inner = config.mamba_expand * dim
        return int(inner) if inner == int(inner) else 0

    def time_constants(self) -> Tensor:
        with torch.no_grad():
            return 1.0 / (F.softplus(self.dt_bias) * self.A_log.exp())

    def convolve(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """silu(convolution): x (N, T, C), what came before (N, K - 1, C) -> the same shapes."""
        return causal_conv(x, self.conv1d.weight, past, self.conv_engine, self.conv1d.bias)

    def init_convolution(self, batch: int) -> Tensor:
        """(N, K - 1, C) zeros."""
        return torch.zeros(batch, self.conv1d.kernel_size[0] - 1, self.conv1d.in_channels)


def initial_decay(heads: int, time_constants: tuple[float, float] | None) -> tuple[nn.Parameter, nn.Parameter]:
    """dt_bias and A_log (heads,) at the start.

    Args:
      time_constants: shortest and longest, in frames; the heads' are spread log-uniformly between them. None: as
        mamba-ssm starts.
    """
    dt = _log_uniform(torch.rand(heads), *(DT_RANGE if time_constants else MAMBA_DT_RANGE))
    dt_bias = dt + torch.log(-torch.expm1(-dt))  # softplus(dt_bias) = dt
    if time_constants:
        A_log = -(_log_uniform(torch.linspace(0.0, 1.0, heads), *time_constants) * dt).log()
    else:
        A_log = torch.empty(heads).uniform_(*MAMBA_DECAY_RANGE).log()
    return nn.Parameter(dt_bias), nn.Parameter(A_log)


def _log_uniform(share: Tensor, low: float, high: float) -> Tensor:
    """0 -> low, 1 -> high, evenly in the logarithm between."""
    return torch.exp(share * (math.log(high) - math.log(low)) + math.log(low))


class GatedRMSNorm(nn.Module):
    """y, z -> rmsnorm(y * silu(z)) * weight, over the last dimension (..., C), in float32."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        if by_triton(y) and y.ndim == 3:
            from sammo.kernels.norms import GatedRMSNorm as Fused

            return Fused.apply(y, z, self.weight, NORM_EPS)
        gated = (y * F.silu(z)).to(torch.promote_types(y.dtype, torch.float32))
        if is_tracing():  # for which the exporter has no operation; runtimes know it by these
            mean = gated.pow(2.0).mean(dim=-1, keepdim=True)
            return gated / torch.sqrt(mean + NORM_EPS) * self.weight
        normed = F.rms_norm(gated, self.weight.shape, self.weight.to(gated.dtype), NORM_EPS)
        return normed.to(y.dtype)
