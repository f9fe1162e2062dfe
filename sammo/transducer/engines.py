"""Which implementation computes the recursion over the lattice."""

from __future__ import annotations

import importlib
import importlib.util
from functools import lru_cache

import torch

from sammo.errors import UserError

# In the order in which "auto" prefers them.
ENGINES = ("k2", "triton", "native")


def available_engines(device: torch.device | str = "cpu") -> dict[str, str]:
    """Engine name -> "" where it can run on ``device``, otherwise the reason why not."""
    cuda = torch.device(device).type == "cuda"
    reasons = {"k2": _k2_reason(cuda), "triton": "", "native": ""}
    if not cuda:
        reasons["triton"] = "needs a CUDA device"
    elif importlib.util.find_spec("triton") is None:
        reasons["triton"] = "triton is not installed"
    return reasons


def resolve_engine(name: str, device: torch.device | str = "cpu") -> str:
    """The engine that runs on ``device``; "auto" takes the first that can of k2, triton, native.

    Raises:
      UserError: the name is unknown or the engine cannot run here.
    """
    if name == "native":
        return name
    if name not in (*ENGINES, "auto"):
        raise UserError(f"unknown loss engine {name!r}: choose auto, {', '.join(ENGINES)}")
    reasons = available_engines(device)
    if name == "auto":
        return next(engine for engine in ENGINES if not reasons[engine])
    if reasons[name]:
        raise UserError(f"loss engine {name} cannot run: {reasons[name]}; use auto or native")
    return name


@lru_cache(maxsize=None)
def _k2_reason(cuda: bool) -> str:
    if importlib.util.find_spec("k2") is None:
        return "k2 is not installed"
    try:
        k2 = importlib.import_module("k2")
    except (ImportError, OSError) as error:  # built for another torch or CUDA
        return f"k2 does not load: {error}"
    if cuda and not getattr(k2, "with_cuda", True):
        return "this k2 was built without CUDA"
    return ""
