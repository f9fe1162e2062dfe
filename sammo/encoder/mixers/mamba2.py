"""The Mamba-2 block (Dao and Gu, ICML 2024, section 7 and figure 6), the mixer of Sammo."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sammo.cpu import linear
from sammo.encoder.mixers.base import Decay
from sammo.encoder.mixers.recurrent import GatedRMSNorm, RecurrentMixer, initial_decay
from sammo.encoder.plan import Plan
from sammo.encoder.ssd import RECORDED_BLOCK, SCAN_ENGINES, recorded_scan, ssd_scan
from sammo.recording import as_frames, is_tracing, join_past, sizes


class Mamba2State(NamedTuple):
    """What a Mamba-2 block carries from chunk to chunk: its size does not depend on the past's length."""

    conv: Tensor  # (N, K - 1, d_inner + 2 * groups * d_state): the last inputs of the convolution
    ssm: Tensor  # (N, H, P, S)


class Mamba2(RecurrentMixer):
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
      time_constants: see :func:`sammo.encoder.mixers.recurrent.initial_decay`.
      conv_bias: whether the convolution has a bias, as Mamba's own.

    ``scan_engine`` chooses who computes the scan, see :func:`sammo.encoder.ssd.ssd_scan`.
    """

    label = "Mamba-2"
    options = (*RecurrentMixer.options, "d_state", "mamba_head_dim", "mamba_groups")
    engines = {"scan": SCAN_ENGINES, **RecurrentMixer.engines}
    dynamics = ("A_log", "dt_bias", "D")
    divisors = ("mamba_head_dim", "mamba_groups")
    recurrent_leaf = "ssm"
    scan_engine = "auto"

    def __init__(
        self,
        d_model: int,
        d_inner: int,
        d_state: int = 128,
        head_dim: int = 16,
        conv_kernel: int = 4,
        groups: int = 1,
        time_constants: tuple[float, float] | None = None,
        conv_bias: bool = False,
    ) -> None:
        super().__init__()
        if d_inner % head_dim:
            raise ValueError(f"d_inner {d_inner} is not a multiple of head_dim {head_dim}")
        heads = d_inner // head_dim
        if heads % groups:
            raise ValueError(f"{heads} heads do not divide into {groups} groups")
        self.d_inner, self.d_state, self.head_dim, self.groups = d_inner, d_state, head_dim, groups
        conv_dim = d_inner + 2 * groups * d_state
        self.in_proj = nn.Linear(d_model, d_inner + conv_dim + heads, bias=False)
        self.conv1d = nn.Conv1d(conv_dim, conv_dim, conv_kernel, groups=conv_dim, bias=conv_bias)
        self.dt_bias, self.A_log = initial_decay(heads, time_constants)
        self.D = nn.Parameter(torch.ones(heads))
        self.norm = GatedRMSNorm(d_inner)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)

    @staticmethod
    def sizes(config) -> dict[str, int]:
        return {"d_state": config.d_state, "head_dim": config.mamba_head_dim, "groups": config.mamba_groups}

    def forward(self, x, weights=None, plan=None, state: Mamba2State | None = None) -> tuple[Tensor, Mamba2State]:
        if is_tracing() and self.groups == 1 and plan and state and plan.frames <= RECORDED_BLOCK:
            return self._recorded(x, plan, state)
        heads, shape = self.d_inner // self.head_dim, (*sizes(x)[:-1], self.d_inner)
        widths = [self.d_inner, self.conv1d.in_channels, heads]
        z, xbc, dt = linear(x, self.in_proj.weight).split(widths, dim=-1)
        xbc, dt = as_frames(xbc, plan), as_frames(dt, plan)
        num, frames, _ = sizes(xbc)
        xbc, conv_state = self.convolve(xbc, None if state is None else state.conv)
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
        out = self.whiten(linear(self.norm(y.reshape(shape), z), self.out_proj.weight))
        return out, Mamba2State(conv_state, ssm_state)

    def _recorded(self, x: Tensor, plan: Plan, state: Mamba2State) -> tuple[Tensor, Mamba2State]:
        """One chunk x (N * T, C) in the graph of an export. Between the projections frames come last, as the convolution
        gives them and the scan takes them."""
        inner, heads, channels = self.d_inner, self.d_inner // self.head_dim, self.conv1d.in_channels
        bias = F.pad(self.dt_bias, (inner + channels, 0))  # a product has room for it
        z, xbc, dt = linear(x, self.in_proj.weight, bias).split([inner, channels, heads], dim=-1)
        image, conv_state = join_past(xbc.reshape(1, -1, plan.frames * channels), state.conv)
        xbc = F.silu(F.conv2d(image, self.conv1d.weight.unsqueeze(2), self.conv1d.bias, groups=channels))
        x, B, C = xbc.split([inner, self.d_state, self.d_state], dim=1)
        y, ssm_state = recorded_scan(
            x.reshape(-1, heads, self.head_dim, plan.frames),
            dt.reshape(-1, 1, plan.frames, heads).transpose(1, 3),
            -torch.exp(self.A_log),
            B.permute(0, 2, 3, 1),
            C.reshape(-1, 1, self.d_state, plan.frames),
            self.D,
            state.ssm,
        )
        y = y.permute(0, 3, 1, 2).reshape(-1, inner)
        return linear(self.norm(y, z), self.out_proj.weight), Mamba2State(conv_state, ssm_state)

    def init_state(self, batch: int, left: int | None = None) -> Mamba2State:
        heads = self.d_inner // self.head_dim
        return Mamba2State(self.init_convolution(batch), torch.zeros(batch, heads, self.head_dim, self.d_state))

    def decay(self, x: Tensor, state: Mamba2State | None = None) -> Decay:
        dt = linear(x, self.in_proj.weight[-self.A_log.numel() :]).float()
        log = -F.softplus(dt + self.dt_bias.float()) * torch.exp(self.A_log.float())
        return Decay(log, log.sum(dim=1).exp()[..., None, None])
