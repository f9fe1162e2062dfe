"""Operations as one kernel each where PyTorch needs several: Triton on CUDA devices, PyTorch everywhere else."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Iterator

import torch
from torch import Tensor

from sammo.engines import Engines, anywhere, is_installed, needs_cuda


def triton_reason() -> str:
    """Why Triton's kernels cannot run, or ""."""
    return "" if is_installed("triton") else "triton is not installed"


KERNEL_ENGINES = Engines("kernel", {"triton": needs_cuda(triton_reason), "torch": anywhere})


_engine = "auto"


@contextmanager
def kernel_engine(name: str) -> Iterator[None]:
    """Lets another engine than "auto" run, to compare."""
    global _engine
    before, _engine = _engine, name
    try:
        yield
    finally:
        _engine = before


def by_triton(x: Tensor) -> bool:
    """Whether operations on ``x`` run as the Triton kernels of this package, which compute in float32."""
    return KERNEL_ENGINES.resolve(_engine, x.device) == "triton" and x.dtype != torch.float64
