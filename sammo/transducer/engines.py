"""Which implementation computes the recursion over the lattice."""

from __future__ import annotations

import importlib

from sammo.engines import Engines, anywhere, import_reason, needs_cuda
from sammo.kernels import triton_reason


def _k2_reason(kind: str) -> str:
    reason = import_reason("k2")
    if not reason and kind == "cuda" and not getattr(importlib.import_module("k2"), "with_cuda", True):
        return "this k2 was built without CUDA"
    return reason


LOSS_ENGINES = Engines("loss", {"k2": _k2_reason, "triton": needs_cuda(triton_reason), "native": anywhere})
