"""Gated DeltaNet (Yang, Kautz and Hatamizadeh, ICLR 2025, arXiv:2412.06464): a memory that corrects itself.

Per head, with unit keys, a gate alpha_t = exp(g_t) and a strength beta_t (paper, equation 10),

    S_t = alpha_t S_{t-1} + k_t u_t^T,    u_t = beta_t (v_t - alpha_t S_{t-1}^T k_t)        S: (K, V)
    o_t = S_t^T q_t / sqrt(K)

Each frame reads what the state holds for its key and writes the difference. Inside a block of Q frames the u_t solve a
triangular system; from block to block goes one (K, V) state (paper, section 3.3).
"""

from __future__ import annotations

import importlib
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sammo.cpu import linear
from sammo.encoder.mixers.base import Decay
from sammo.encoder.mixers.recurrent import GatedRMSNorm, RecurrentMixer, initial_decay
from sammo.encoder.ssd import decay_between
from sammo.engines import Engines, anywhere, import_reason, needs_cuda
from sammo.errors import UserError
from sammo.recording import as_frames, sizes, solve_unitriangular

BLOCK = 32  # frames per triangular system
KEY_SHARE = 2  # values are so many times as wide as keys, as in the original
RuleInputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # q, k, v, beta, log_decay
HALVES = (torch.float16, torch.bfloat16)  # what the kernels take


def gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor,
    state: Tensor | None = None,
    engine: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Run the recurrence over a batch of sequences.

    Args:
      q, k: (N, T, H, K) of unit length over K.
      v: (N, T, H, V).
      beta: (N, T, H) in [0, 1].
      log_decay: (N, T, H), g, at most 0.
      state: (N, H, K, V) before the first frame; None: zeros.
      engine: "auto", "torch" or "fla" (flash-linear-attention's kernels, CUDA and half precision only).

    Returns:
      o (N, T, H, V) in the type of ``v`` and the state after the last frame, (N, H, K, V) float32.

    Raises:
      UserError: the engine is unknown, or cannot run here or on this type.
    """
    if DELTA_ENGINES.resolve(engine, v.device) == "fla" and v.shape[1] > 0:
        if v.dtype in HALVES:
            return _rule_fla(q, k, v, beta, log_decay, state)
        if engine != "auto":
            raise UserError(f"flash-linear-attention's kernels take half precision, not {v.dtype}: use auto")
    if torch.is_autocast_enabled(v.device.type):
        with torch.autocast(v.device.type, enabled=False):
            return _rule_torch(q, k, v, beta, log_decay, state)
    return _rule_torch(q, k, v, beta, log_decay, state)


def _rule_torch(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """In float32 (float64 stays). All blocks are solved at once; then the state goes through them."""
    out_dtype, (num, frames, heads, width) = v.dtype, sizes(v)
    dtype = torch.promote_types(out_dtype, torch.float32)
    q, k, v, beta, log_decay = (x.to(dtype) for x in (q * sizes(q)[-1] ** -0.5, k, v, beta, log_decay))
    state = v.new_zeros(num, heads, k.shape[-1], width) if state is None else state.to(dtype)
    if frames == 0:
        return v.to(out_dtype), state
    size = min(BLOCK, frames)
    pad = -frames % size  # frames of strength zero and decay one: the state passes through
    count = (frames + pad) // size

    def blocks(x: Tensor) -> Tensor:
        """(N, T, H, ...) -> (N, blocks, H, Q, ...)."""
        x = F.pad(x, (0, 0) * (x.ndim - 2) + (0, pad)) if pad else x
        return x.reshape(num, count, size, *sizes(x)[2:]).transpose(2, 3)

    q, k, v, beta, decay = blocks(q), blocks(k), blocks(v), blocks(beta).unsqueeze(-1), blocks(log_decay).cumsum(-1)
    between = decay_between(decay)  # (N, blocks, H, Q, Q)
    since_start = decay.exp().unsqueeze(-1)  # (N, blocks, H, Q, 1)
    keys = k.transpose(-1, -2)
    # u + tril(beta decay k k^T, -1) u = beta (v - decay S^T k), split into what S multiplies and the rest.
    overlap = beta * between * (k @ keys)
    right = torch.cat([beta * v, beta * since_start * k], dim=-1)
    fresh, stored = solve_unitriangular(overlap, right).split([width, sizes(k)[-1]], dim=-1)
    to_end = keys * between[..., -1, :].unsqueeze(-2)  # (N, blocks, H, K, Q)
    whole = since_start[..., -1:, :]
    updates, states = [], []
    for block in range(count):
        update = fresh[:, block] - stored[:, block] @ state
        updates.append(update)
        states.append(state)
        state = torch.addcmul(to_end[:, block] @ update, state, whole[:, block])
    o = (q @ keys * between) @ torch.stack(updates, dim=1)
    o = torch.addcmul(o, q @ torch.stack(states, dim=1), since_start)
    return o.transpose(2, 3).reshape(num, count * size, heads, width)[:, :frames].to(out_dtype), state


def _rule_fla(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor, state: Tensor | None):
    """By flash-linear-attention's kernels: q, k and v in half precision, decay and state in float32."""
    rule = importlib.import_module("fla.ops.gated_delta_rule").chunk_gated_delta_rule
    q, k, v, beta = (x.to(v.dtype).contiguous() for x in (q, k, v, beta))
    log_decay = log_decay.float().contiguous()
    state = None if state is None else state.float().contiguous()
    return rule(q=q, k=k, v=v, g=log_decay, beta=beta, initial_state=state, output_final_state=True)


DELTA_ENGINES = Engines("delta rule", {"fla": needs_cuda(lambda: import_reason("fla")), "torch": anywhere})


class GatedDeltaState(NamedTuple):
    """What a Gated DeltaNet block carries from chunk to chunk: its size does not depend on the past's length."""

    conv: Tensor  # (N, kernel - 1, 2 d_inner): the last inputs of the convolution
    memory: Tensor  # (N, H, K, V)


class GatedDelta(RecurrentMixer):
    """Gated delta rule between the short convolution and the gated norm that it shares with Mamba-2.

        z, qkv, a, b = in_proj(x)
        q, k, v      = silu(causal_depthwise_conv(qkv)), q and k of unit length
        g, beta      = -exp(A_log) softplus(a + dt_bias), sigmoid(b)
        out          = out_proj(rmsnorm(rule(q, k, v, beta, g) * silu(z)))

    With d_inner = 3/4 d_model wide values and keys half as wide the projections hold 3 d_model^2 weights, as those of
    the other mixers do, in the original's proportions.

    Args:
      d_model: width of input and output.
      d_inner: width of the values of all heads, of z and of q and k together.
      heads: H; d_inner is a multiple of 2 H.
      conv_kernel, conv_bias, time_constants: as of Mamba-2.

    ``scan_engine`` chooses who computes the rule.
    """

    label = "Gated DeltaNet"
    options = (*RecurrentMixer.options, "delta_heads")
    engines = {"scan": DELTA_ENGINES, **RecurrentMixer.engines}
    divisors, multiple = ("delta_heads",), KEY_SHARE
    recurrent_leaf = "memory"
    scan_engine = "auto"

    def __init__(
        self,
        d_model: int,
        d_inner: int,
        heads: int = 4,
        conv_kernel: int = 4,
        time_constants: tuple[float, float] | None = None,
        conv_bias: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.d_inner, self.d_key = heads, d_inner, d_inner // KEY_SHARE
        conv_dim = 2 * self.d_key + d_inner
        self.in_proj = nn.Linear(d_model, d_inner + conv_dim + 2 * heads, bias=False)
        self.conv1d = nn.Conv1d(conv_dim, conv_dim, conv_kernel, groups=conv_dim, bias=conv_bias)
        self.dt_bias, self.A_log = initial_decay(heads, time_constants)
        self.norm = GatedRMSNorm(d_inner)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)

    @staticmethod
    def sizes(config) -> dict[str, int]:
        return {"heads": config.delta_heads}

    def forward(self, x, weights=None, plan=None, state: GatedDeltaState | None = None):
        z, inputs, conv_state = self._project(as_frames(x, plan), None if state is None else state.conv)
        y, memory = gated_delta_rule(*inputs, None if state is None else state.memory, self.scan_engine)
        y = self.norm(y.reshape(sizes(z)), z).reshape(*sizes(x)[:-1], self.d_inner)
        out = self.whiten(linear(y, self.out_proj.weight))
        return out, GatedDeltaState(conv_state, memory)

    def _project(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, RuleInputs, Tensor]:
        """z, the arguments q, k, v, beta and g of the rule, and the next state of the convolution."""
        num, frames, _ = sizes(x)
        heads = self.heads
        z, qkv, a, b = linear(x, self.in_proj.weight).split(
            [self.d_inner, self.conv1d.in_channels, heads, heads], dim=-1
        )
        qkv, past = self.convolve(qkv, past)
        q, k, v = (
            part.reshape(num, frames, heads, sizes(part)[-1] // heads)
            for part in qkv.split([self.d_key, self.d_key, self.d_inner], dim=-1)
        )
        g = -F.softplus(a.float() + self.dt_bias.float()) * self.A_log.float().exp()
        return z, (_unit(q), _unit(k), v, b.sigmoid(), g), past

    def decay(self, x: Tensor, state: GatedDeltaState | None = None) -> Decay:
        """A frame multiplies the state by alpha (I - beta k k^T): by alpha in the K - 1 directions across its key, by
        alpha (1 - beta) along it. The transition is the product over all frames: the rule on the identity, with values
        of zero."""
        _, (q, k, v, beta, g), _ = self._project(x, None if state is None else state.conv)
        width = k.shape[-1]
        start = torch.eye(width, device=x.device).expand(len(x), self.heads, width, width)
        _, transition = gated_delta_rule(q, k, torch.zeros_like(k), beta, g, start, "torch")
        along = 1.0 - beta.float() * k.float().square().sum(dim=-1)
        return Decay(g + 0.5 * ((width - 1 + along.square()) / width).log(), transition)

    def init_state(self, batch: int, left: int | None = None) -> GatedDeltaState:
        memory = torch.zeros(batch, self.heads, self.d_key // self.heads, self.d_inner // self.heads)
        return GatedDeltaState(self.init_convolution(batch), memory)


def _unit(x: Tensor) -> Tensor:
    """x over its length, over the last dimension."""
    return x * torch.rsqrt(x.float().square().sum(dim=-1, keepdim=True) + 1e-6).to(x.dtype)
