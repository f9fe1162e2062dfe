"""Which implementation computes the recursion over the lattice."""

from __future__ import annotations

import importlib
from functools import lru_cache

from sammo.engines import Engines, anywhere, is_installed, needs_cuda


@lru_cache(maxsize=None)
def _k2_reason(kind: str) -> str:
    if not is_installed("k2"):
        return "k2 is not installed"
    try:
        k2 = importlib.import_module("k2")
    except (ImportError, OSError) as error:  # built for another torch or CUDA
        return f"k2 does not load: {error}"
    if kind == "cuda" and not getattr(k2, "with_cuda", True):
        return "this k2 was built without CUDA"
    return ""


def _triton_reason() -> str:
    return "" if is_installed("triton") else "triton is not installed"


LOSS_ENGINES = Engines("loss", {"k2": _k2_reason, "triton": needs_cuda(_triton_reason), "native": anywhere})
