"""Tensors that never change, made once."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Callable

import torch
from torch import Tensor

MAX_KEPT = 64  # per function

_functions: list[Any] = []


def constant(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorates a function of hashable arguments whose results nobody changes: they are kept."""
    # Not in inference mode: what decoding made first may be trained with.
    kept = lru_cache(maxsize=MAX_KEPT)(torch.inference_mode(False)(make))
    _functions.append(kept)
    return kept


def forget_constants() -> None:
    """Empty what :func:`constant` keeps, before and after a mode in which tensors are of another kind."""
    for kept in _functions:
        kept.cache_clear()
