"""The short causal convolution in front of a recurrence, and the SiLU after it."""

from __future__ import annotations

import importlib

import torch
import torch.nn.functional as F
from torch import Tensor

from sammo.engines import Engines, anywhere, import_reason, needs_cuda
from sammo.errors import UserError
from sammo.kernels import triton_reason
from sammo.recording import is_tracing, sizes


def causal_conv(
    x: Tensor, weight: Tensor, past: Tensor | None = None, engine: str = "auto", bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """silu(depthwise convolution of x and what came before it).

    Args:
      x: (N, T, C).
      weight: (C, 1, K).
      past: (N, K - 1, C), the frames before x; None: zeros.
      engine: "auto", "torch", or "triton" or "causal-conv1d" (CUDA only).
      bias: (C,).

    Returns:
      (N, T, C) in the type of ``x`` and the next past.

    Raises:
      UserError: the engine is unknown, or cannot run here or on these shapes.
    """
    if past is not None:
        past = past.to(x.dtype)
    taps, frames = int(weight.shape[-1]), sizes(x)[1]
    chosen = CONV_ENGINES.resolve(engine, x.device)
    if chosen == "causal-conv1d" and frames > 0:
        if _fits(x, weight):
            return _fused(x, weight, past, bias), _last_frames(x, past, taps - 1)
        if engine != "auto":
            what = f"{tuple(weight.shape)} and {x.dtype}"
            raise UserError(f"causal-conv1d takes 2 to 4 taps, channels in eights and no float64, not {what}: use auto")
    if chosen == "triton" and frames > 0 and x.dtype != torch.float64:
        from sammo.kernels.causal_conv import SiluConv

        return SiluConv.apply(x, weight, past, bias), _last_frames(x, past, taps - 1)
    if past is None:
        padded = F.pad(x, (0, 0, taps - 1, 0))
    else:
        padded = torch.cat([past, x], dim=1)
    # A sum of shifted products: a depthwise convolution over so few taps would spend its time on the two transposes
    # to (N, C, T) and back.
    weight = weight[:, 0].t()  # (K, C)
    if is_tracing():  # which counts operations
        taken = torch.arange(taps)[:, None] + torch.arange(frames)
        out = (padded[:, taken] * weight[:, None]).sum(dim=1)
        return F.silu(out if bias is None else out + bias), padded[:, frames:]
    first = padded[:, :frames]
    out = first * weight[0] if bias is None else torch.addcmul(bias, first, weight[0])
    for tap in range(1, taps):
        out = torch.addcmul(out, padded[:, tap : tap + frames], weight[tap])
    return F.silu(out).to(x.dtype), padded[:, frames:]  # half precision goes in and out, sums are in float32


def _last_frames(x: Tensor, past: Tensor | None, count: int) -> Tensor:
    """(N, count, C): the end of the past and x."""
    missing = count - x.shape[1]
    if missing > 0:
        x = F.pad(x, (0, 0, missing, 0)) if past is None else torch.cat([past[:, -missing:], x], dim=1)
    return x[:, x.shape[1] - count :]


# ------------------------------------------------------------------------------------ causal-conv1d


def _fits(x: Tensor, weight: Tensor) -> bool:
    """Whether its kernels take this convolution."""
    return 2 <= weight.shape[-1] <= 4 and weight.shape[0] % 8 == 0 and x.dtype != torch.float64


def _fused(x: Tensor, weight: Tensor, past: Tensor | None, bias: Tensor | None) -> Tensor:
    """By its kernel, which takes (N, C, T) with channels last in memory and strides that are multiples of 8."""
    convolve = importlib.import_module("causal_conv1d").causal_conv1d_fn
    if past is not None:
        past = past.contiguous().transpose(1, 2)
    out = convolve(x.contiguous().transpose(1, 2), weight[:, 0], bias, initial_states=past, activation="silu")
    return out.transpose(1, 2)


CONV_ENGINES = Engines(
    "convolution",
    {
        "causal-conv1d": needs_cuda(lambda: import_reason("causal_conv1d")),
        "triton": needs_cuda(triton_reason),
        "torch": anywhere,
    },
)
