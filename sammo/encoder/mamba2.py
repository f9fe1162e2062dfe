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

# Step sizes at the start of training are spread log-uniformly over this range, decay rates
# uniformly over the other (mamba-ssm's defaults).
DT_RANGE = (1e-3, 1e-1)
DECAY_RANGE = (1.0, 16.0)
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

    ``scan_engine`` and ``conv_engine`` choose who computes, see :func:`sammo.encoder.ssd.ssd_scan` and
    :func:`sammo.encoder.causal_conv.causal_conv`.
    """

    scan_engine = conv_engine = "auto"

    def __init__(
        self,
        d_model: int,
        d_inner: int,
        d_state: int = 128,
        head_dim: int = 16,
        conv_kernel: int = 4,
        groups: int = 1,
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
        low, high = (math.log(bound) for bound in DT_RANGE)
        dt = torch.exp(torch.rand(heads) * (high - low) + low)
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))  # softplus(dt_bias) = dt
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(*DECAY_RANGE).log())
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


class GatedRMSNorm(nn.Module):
    """y, z -> rmsnorm(y * silu(z)) * weight, over the last dimension (..., C), in float32."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        gated = (y * F.silu(z)).to(torch.promote_types(y.dtype, torch.float32))
        normed = F.rms_norm(gated, self.weight.shape, self.weight.to(gated.dtype), NORM_EPS)
        return normed.to(y.dtype)
