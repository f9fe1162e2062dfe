"""Grids of the kernels."""

from __future__ import annotations

import triton
from torch import Tensor


def elements(x: Tensor, block: int) -> tuple[int]:
    """One program for every ``block`` values of x."""
    return (triton.cdiv(x.numel(), block),)
