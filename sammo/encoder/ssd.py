"""The selective scan of Mamba-2: state space duality (Dao and Gu, ICML 2024, arXiv:2405.21060).

Per head, with a scalar decay, the recurrence is (paper, section 3.2 and listing 1)

    dt_t  = softplus(dt_t + dt_bias)
    h_t   = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T          h: (P, S)
    y_t   = h_t C_t + D x_t

which inside a block of Q frames is a masked matrix product (the "dual" form) and between blocks a
recurrence over one (P, S) state per block. :func:`ssd_scan` is the only entry point; the engine
behind it is chosen by name.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import sys
import types
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any, Callable, Iterator
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from sammo.constants import constant
from sammo.engines import Engines, anywhere, needs_cuda
from sammo.recording import hide, sizes

# Frames per block of the dual form: the work inside a block grows with it, the number of states
# kept between blocks falls with it. 32 is the fastest of 16, 32, 64 and 128 on CPUs.
BLOCK = 32
# In the graph of an export, where an operation costs more than the products within a block, see recorded_scan.
RECORDED_BLOCK = 64
# Blocks whose states are combined by one (blocks x blocks) product; longer input carries the state
# from one run of blocks to the next, so that work and memory stay linear in the length.
BLOCKS_PER_RUN = 32
# The chunk of the Triton kernels, in frames (their own default).
TRITON_CHUNK = 256


def ssd_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    initial_state: Tensor | None = None,
    engine: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Run the scan over a batch of sequences.

    Args:
      x: (N, T, H, P), the input of each head.
      dt: (N, T, H), step size before the bias and the softplus.
      A: (H,), negative decay rate.
      B: (N, T, G, S), input projection; each of the G groups serves H / G heads.
      C: (N, T, G, S), output projection.
      D: (H,), skip connection.
      dt_bias: (H,).
      initial_state: (N, H, P, S) float32, or None for zeros.
      engine: "auto", "torch" or "triton" (mamba-ssm's kernels, CUDA only).

    Returns:
      y (N, T, H, P) in the type of ``x`` and the state after the last frame, (N, H, P, S) float32.

    Raises:
      UserError: the engine is unknown or cannot run here.
    """
    if SCAN_ENGINES.resolve(engine, x.device) == "triton":
        return _scan_triton(x, dt, A, B, C, D, dt_bias, initial_state)
    if torch.is_autocast_enabled(x.device.type):
        with torch.autocast(x.device.type, enabled=False):
            return _scan_torch(x, dt, A, B, C, D, dt_bias, initial_state)
    return _scan_torch(x, dt, A, B, C, D, dt_bias, initial_state)


# ------------------------------------------------------------------------------------ PyTorch


def _scan_torch(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The dual form in float32 (float64 stays), blocks of at most ``BLOCK`` frames."""
    out_dtype = x.dtype
    dtype = torch.promote_types(out_dtype, torch.float32)
    x, B, C, dt = x.to(dtype), B.to(dtype), C.to(dtype), dt.to(dtype)
    dt = dt + dt_bias.to(dtype)
    A, D = A.to(dtype), D.to(dtype)
    num, frames, heads, width = sizes(x)
    if state is None:
        state = x.new_zeros(num, heads, width, B.shape[-1])
    else:
        state = state.to(dtype)

    dt = F.softplus(dt)
    if frames <= BLOCK:
        if frames == 0:
            return x.to(out_dtype), state
        y, state = _one_block(x, dt, A, B, C, state)
    else:
        pieces = []
        run = BLOCK * BLOCKS_PER_RUN
        for start in range(0, frames, run):
            window = slice(start, start + run)
            y, state = _run_of_blocks(x[:, window], dt[:, window], A, B[:, window], C[:, window], state)
            pieces.append(y)
        y = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)
    y = torch.addcmul(y, x, D[:, None])
    return y.to(out_dtype), state


def _one_block(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The scan over so few frames that they are one block: the path of real streaming."""
    num, frames, heads, width = sizes(x)
    groups, size = sizes(B)[2:]
    served = heads // groups  # heads a group
    decay = torch.cumsum(dt * A, dim=1).transpose(1, 2)  # (N, H, T), log of the decay since the start
    between = decay_between(decay)  # (N, H, T, T)
    scores = C.transpose(1, 2) @ B.permute(0, 2, 3, 1)  # (N, G, T, T)
    weights = between.view(num, groups, served, frames, frames) * scores.unsqueeze(2)
    weights = weights.view(num, heads, frames, frames)
    scaled = (x * dt.unsqueeze(-1)).transpose(1, 2)  # (N, H, T, P)
    # What the past contributes: C_t h_0, one product for all heads of a group.
    past = C.transpose(1, 2) @ state.reshape(num, groups, served * width, size).transpose(2, 3)  # (N, G, T, H/G * P)
    past = past.view(num, groups, frames, served, width).transpose(2, 3).reshape(num, heads, frames, width)
    since_start = decay.exp().unsqueeze(-1)  # (N, H, T, 1)
    y = torch.addcmul(weights @ scaled, past, since_start)
    to_end = between.select(2, -1).unsqueeze(-1)  # (N, H, T, 1)
    gathered = (scaled * to_end).transpose(1, 2).reshape(num, frames, groups, served * width)
    update = gathered.permute(0, 2, 3, 1) @ B.transpose(1, 2)  # (N, G, H/G * P, S)
    state = torch.addcmul(update.view(num, heads, width, size), state, since_start[:, :, -1:])
    return y.transpose(1, 2), state


def recorded_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The scan over one block with one group as few operations, in the graph of an export: frames last, so that no
    product needs its factors turned.

    Args:
      x: (N, H, P, T).
      dt: (N, H, T, 1) with its bias.
      A, D: (H,).
      B: (N, 1, T, S).
      C: (N, 1, S, T).
      state: (N, H, P, S).

    Returns:
      y (N, H, P, T) and the next state.
    """
    heads, _, frames = sizes(x)[1:]
    dt = F.softplus(dt)
    decay = torch.cumsum(dt * A[:, None, None], dim=2)  # (N, H, T, 1), log of the decay since the start
    since_start = decay.reshape(-1, heads, 1, frames)
    written = hide(since_start - decay, _upper(frames, x.device).t(), float("-inf")).exp() * dt  # source, target
    since_start = since_start.exp()
    weights = written * (B @ C) + D[:, None, None] * torch.eye(frames)
    y = x @ weights + (state @ C) * since_start
    update = (x * written[..., -1:].reshape(-1, heads, 1, frames)) @ B
    return y, update + state * since_start[..., -1:]


def _run_of_blocks(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The scan over a run of blocks, whose states are combined by one small matrix product."""
    num, frames, heads, width = sizes(x)
    groups, size = sizes(B)[2:]
    served = heads // groups  # heads a group
    pad = -frames % BLOCK
    if pad:  # a step of size zero neither decays nor adds: the state passes through
        x, B, C = (F.pad(t, (0, 0, 0, 0, 0, pad)) for t in (x, B, C))
        dt = F.pad(dt, (0, 0, 0, pad))
    blocks = (frames + pad) // BLOCK
    scaled = (x * dt[..., None]).unflatten(1, (blocks, BLOCK)).permute(0, 1, 3, 2, 4)  # (N, K, H, Q, P)
    decay = (dt * A).unflatten(1, (blocks, BLOCK)).transpose(2, 3).cumsum(dim=-1)  # (N, K, H, Q)
    B = B.unflatten(1, (blocks, BLOCK)).transpose(2, 3)  # (N, K, G, Q, S)
    C = C.unflatten(1, (blocks, BLOCK)).transpose(2, 3)

    # Inside each block: attention with decaying weights (paper, section 6, "diagonal blocks").
    scores = C @ B.transpose(-1, -2)  # (N, K, G, Q, Q)
    between = decay_between(decay)  # (N, K, H, Q, Q)
    weights = between.unflatten(2, (groups, -1)) * scores[:, :, :, None]
    y = weights.flatten(2, 3) @ scaled  # (N, K, H, Q, P)

    # What each block adds to the state, as it stands at the block's end.
    to_end = between[..., -1, :, None]
    added = (scaled * to_end).unflatten(2, (groups, -1)).transpose(3, 4)  # (N, K, G, Q, H/G, P)
    added = added.flatten(-2).transpose(-1, -2) @ B  # (N, K, G, H/G * P, S)
    added = torch.cat([state.reshape(num, 1, groups, served * width, size), added], dim=1)  # (N, K+1, ...)

    # The state at the start of each block and after the last: decayed sums over all earlier ones.
    whole = F.pad(decay[..., -1].transpose(1, 2).cumsum(dim=-1), (1, 0))  # (N, H, K+1)
    passing = decay_between(whole)  # (N, H, K+1, K+1)
    added = added.unflatten(3, (-1, width)).flatten(2, 3)  # (N, K+1, H, P, S)
    states = passing @ added.transpose(1, 2).flatten(3)  # (N, H, K+1, P * S)
    states = states.unflatten(3, (width, size)).transpose(1, 2)  # (N, K+1, H, P, S)

    past = states[:, :-1].unflatten(2, (groups, -1)).flatten(3, 4)  # (N, K, G, H/G * P, S)
    past = (C @ past.transpose(-1, -2)).unflatten(-1, (-1, width))  # (N, K, G, Q, H/G, P)
    past = past.transpose(3, 4).flatten(2, 3)  # (N, K, H, Q, P)
    y = torch.addcmul(y, past, decay.exp()[..., None])
    y = y.transpose(2, 3).flatten(1, 2)[:, :frames]
    return y, states[:, -1]


def decay_between(log_decay: Tensor) -> Tensor:
    """(..., T) cumulative log decay -> (..., T, T): decay from source (last) to target, 0 above."""
    between = log_decay.unsqueeze(-1) - log_decay.unsqueeze(-2)
    return hide(between, _upper(sizes(log_decay)[-1], log_decay.device), float("-inf")).exp()


@constant
def _upper(frames: int, device: torch.device) -> Tensor:
    """(T, T) bool, True where the source is later than the target."""
    return torch.ones(frames, frames, dtype=torch.bool, device=device).triu(1)


# ------------------------------------------------------------------------------------ mamba-ssm


@lru_cache(maxsize=1)
def _load_triton() -> tuple[Callable | None, str]:
    """mamba-ssm's combined scan, or None and why there is none.

    The top package of mamba-ssm imports whole language models and compiled extensions, which a
    Triton-only wheel does not have; where that fails, a bare parent module lets the kernels load.
    """
    # Which of their 200 configurations are the fastest takes minutes to find, and differs from time to time, in the last
    # digits of what they compute, too: Triton is to keep what it found beside the compiled kernels.
    os.environ.setdefault("TRITON_CACHE_AUTOTUNING", "1")
    spec = importlib.util.find_spec("mamba_ssm")
    if spec is None:
        return None, "mamba-ssm is not installed (see requirements-cluster.txt)"
    name = "mamba_ssm.ops.triton.ssd_combined"
    try:
        module = importlib.import_module(name)
    except ImportError:
        for loaded in [m for m in sys.modules if m.split(".")[0] == "mamba_ssm"]:
            del sys.modules[loaded]
        parent = types.ModuleType("mamba_ssm")
        parent.__path__ = list(spec.submodule_search_locations or ())
        parent.__spec__ = spec
        sys.modules["mamba_ssm"] = parent
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            del sys.modules["mamba_ssm"]
            return None, f"mamba-ssm is installed but its kernels do not load: {error}"
    return module.mamba_chunk_scan_combined, ""


@contextmanager
def untuned() -> Iterator[None]:
    """Within, mamba-ssm's kernels run in their smallest configuration: to see in seconds whether they are right."""

    def size(configuration: Any) -> int:
        return math.prod(configuration.kwargs.values()) * configuration.num_stages

    _load_triton()
    with ExitStack() as stack:
        for name in [name for name in sys.modules if name.startswith("mamba_ssm.ops.triton.ssd_")]:
            for kernel in vars(sys.modules[name]).values():
                if hasattr(kernel, "configs"):
                    stack.enter_context(mock.patch.object(kernel, "configs", [min(kernel.configs, key=size)]))
        yield


def _scan_triton(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """mamba-ssm's fused kernels: x, B, C in their own type, decay and state in float32."""
    kernel, reason = _load_triton()
    assert kernel is not None, reason  # or the engine would not have been chosen
    if x.shape[1] == 0:
        if state is None:
            state = x.new_zeros(x.shape[0], *x.shape[2:], B.shape[-1], dtype=torch.float32)
        return x, state
    y, final = kernel(  # which takes views of a wider projection
        x,
        dt,
        A.float(),
        B.to(x.dtype),
        C.to(x.dtype),
        chunk_size=TRITON_CHUNK,
        D=D.float(),
        dt_bias=dt_bias.float(),
        dt_softplus=True,
        initial_states=state,
        return_final_states=True,
    )
    return y, final


SCAN_ENGINES = Engines("scan", {"triton": needs_cuda(lambda: _load_triton()[1]), "torch": anywhere})
