"""The Mamba-2 block (Dao and Gu, ICML 2024, section 7 and figure 6) that replaces Zipformer's NLA."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sammo.encoder.causal_conv import causal_conv
from sammo.encoder.linear import linear
from sammo.encoder.ssd import ssd_scan

# How Mamba starts (mamba-ssm's defaults): step sizes spread log-uniformly over the first range, decay rates A uniformly
# over the second. The time constants 1 / (dt A) then have a median of a dozen frames.
MAMBA_DT_RANGE = (1e-3, 1e-1)
MAMBA_DECAY_RANGE = (1.0, 16.0)
# How a block starts whose time constants are given: a head that forgets slowly does so by a small A, not by a small step,
# because the step is also the weight with which each frame is written into the state.
DT_RANGE = (5e-2, 5e-1)
NORM_EPS = 1e-5


class Mamba2State(NamedTuple):
    """What a Mamba-2 block remembers of a stream: its size does not depend on the past's length."""

    conv: Tensor  # (N, K - 1, d_inner + 2 * groups * d_state): the last inputs of the convolution
    ssm: Tensor  # (N, H, P, S)


class Mamba2(nn.Module):
    """Gated selective state space block, causal, with a constant-size state.

        z, xBC, dt = in_proj(u)
        x, B, C    = silu(causal_depthwise_conv(xBC))
        y          = scan(x, dt, A, B, C) + D x
        out        = out_proj(rmsnorm(y * silu(z)))

    Args:
      d_model: width of input and output.
      d_inner: hidden width; a multiple of ``head_dim``.
      d_state: size S of the state per hidden channel.
      head_dim: channels P per head.
      conv_kernel: width K of the causal convolution, in frames.
      groups: number of B/C projections, shared by the heads of a group.
      time_constants: shortest and longest at the start, in frames; the heads' are spread log-uniformly between them.
        None: as mamba-ssm starts.

    ``scan_engine`` and ``conv_engine`` choose who computes, see :func:`sammo.encoder.ssd.ssd_scan` and
    :func:`sammo.encoder.causal_conv.causal_conv`.
    """

    scan_engine = conv_engine = "auto"
    # Parameters that set how long a head remembers and how much it takes in: see TrainConfig.ssm_lr_scale.
    dynamics = ("A_log", "dt_bias", "D")
    recurrent_leaf = "ssm"  # the field of the state that is linear in its past, see log_decay

    def __init__(
        self,
        d_model: int,
        d_inner: int,
        d_state: int = 128,
        head_dim: int = 16,
        conv_kernel: int = 4,
        groups: int = 1,
        time_constants: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        if d_inner % head_dim:
            raise ValueError(f"d_inner {d_inner} is not a multiple of head_dim {head_dim}")
        heads = d_inner // head_dim
        if heads % groups:
            raise ValueError(f"{heads} heads do not divide into {groups} groups")
        self.d_inner, self.d_state, self.head_dim, self.groups = d_inner, d_state, head_dim, groups
        self.conv_kernel = conv_kernel
        conv_dim = d_inner + 2 * groups * d_state
        self.in_proj = nn.Linear(d_model, d_inner + conv_dim + heads, bias=False)
        self.conv1d = nn.Conv1d(conv_dim, conv_dim, conv_kernel, groups=conv_dim, bias=False)
        dt = _log_uniform(torch.rand(heads), *(DT_RANGE if time_constants else MAMBA_DT_RANGE))
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))  # softplus(dt_bias) = dt
        if time_constants:
            spread = _log_uniform(torch.linspace(0.0, 1.0, heads), *time_constants)
            self.A_log = nn.Parameter(-(spread * dt).log())
        else:
            self.A_log = nn.Parameter(torch.empty(heads).uniform_(*MAMBA_DECAY_RANGE).log())
        self.D = nn.Parameter(torch.ones(heads))
        self.norm = GatedRMSNorm(d_inner)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)

    def forward(self, u: Tensor, state: Mamba2State | None = None) -> tuple[Tensor, Mamba2State]:
        """u (N, T, d_model) -> (N, T, d_model) and the state after the last frame."""
        num, frames, _ = u.shape
        heads = self.d_inner // self.head_dim
        z, xbc, dt = linear(u, self.in_proj.weight).split(
            [self.d_inner, self.conv1d.weight.shape[0], heads], dim=-1
        )
        past = None if state is None else state.conv
        xbc, conv_state = causal_conv(xbc, self.conv1d.weight, past, self.conv_engine)
        x, B, C = xbc.split([self.d_inner, *2 * (self.groups * self.d_state,)], dim=-1)
        y, ssm_state = ssd_scan(
            x.view(num, frames, heads, self.head_dim),
            dt,
            -torch.exp(self.A_log.float()),
            B.view(num, frames, self.groups, self.d_state),
            C.view(num, frames, self.groups, self.d_state),
            self.D,
            self.dt_bias,
            None if state is None else state.ssm,
            self.scan_engine,
        )
        out = linear(self.norm(y.flatten(-2), z), self.out_proj.weight)
        return out, Mamba2State(conv_state, ssm_state)

    def time_constants(self) -> Tensor:
        """(H,) frames after which a head's state has fallen to 1/e, where the input does not change the step size."""
        with torch.no_grad():
            return 1.0 / (F.softplus(self.dt_bias) * self.A_log.exp())

    def log_decay(self, u: Tensor) -> Tensor:
        """u (N, T, d_model) -> (N, T, H) float32: log of what each frame leaves of a head's state before it."""
        dt = linear(u, self.in_proj.weight[-self.A_log.numel() :]).float()
        return -F.softplus(dt + self.dt_bias.float()) * torch.exp(self.A_log.float())

    def init_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Mamba2State:
        """The state of ``batch_size`` streams that have not begun: zeros."""
        heads = self.d_inner // self.head_dim
        conv_dim = self.conv1d.weight.shape[0]
        zeros = dict(device=device, dtype=dtype)
        return Mamba2State(
            torch.zeros(batch_size, self.conv_kernel - 1, conv_dim, **zeros),
            torch.zeros(batch_size, heads, self.head_dim, self.d_state, **zeros),
        )


def _log_uniform(share: Tensor, low: float, high: float) -> Tensor:
    """0 -> low, 1 -> high, evenly in the logarithm between."""
    return torch.exp(share * (math.log(high) - math.log(low)) + math.log(low))


class GatedRMSNorm(nn.Module):
    """y, z -> rmsnorm(y * silu(z)) * weight, over the last dimension (..., C), in float32."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        gated = (y * F.silu(z)).to(torch.promote_types(y.dtype, torch.float32))
        normed = F.rms_norm(gated, self.weight.shape, self.weight.to(gated.dtype), NORM_EPS)
        return normed.to(y.dtype)
