"""Operations as one kernel each where PyTorch needs several: Triton on CUDA devices, PyTorch everywhere else.

Triton compiles a kernel once more where an integer is 1 or a multiple of 16 and was not before. Counts that differ from
batch to batch, of frames and rows, are marked ``do_not_specialize``; widths, strides and numbers of values are not, by
which it knows that it may load several values at once.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Iterator

import torch
from torch import Tensor

from sammo.engines import Engines, anywhere, import_reason, is_installed, needs_cuda

OLDEST = (7, 0)  # compute capability


def triton_reason() -> str:
    """Why Triton's kernels cannot run on the present GPU, or ""."""
    if not is_installed("triton"):
        return "triton is not installed"
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(torch.cuda.current_device())
        if (gpu.major, gpu.minor) < OLDEST:
            return f"triton needs sm_{OLDEST[0]}{OLDEST[1]} or newer, this GPU is sm_{gpu.major}{gpu.minor}"
    return import_reason("triton")


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
