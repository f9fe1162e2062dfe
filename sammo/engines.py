"""Engines: implementations of one operation, of which a name takes one and "auto" the first that can run."""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from typing import Callable, Mapping

import torch

from sammo.errors import UserError


class Engines:
    """The engines of an operation.

    Args:
      operation: what they compute, for messages: "loss".
      reasons: engine -> a function of the type of a device ("cpu") that returns why the engine cannot run there, or "".
        In the order in which "auto" prefers them; the last one runs everywhere.
    """

    def __init__(self, operation: str, reasons: Mapping[str, Callable[[str], str]]) -> None:
        self.operation = operation
        self._reasons = dict(reasons)
        self._resolved: dict[tuple[str, str], str] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """What :meth:`resolve` takes."""
        return ("auto", *self._reasons)

    def reasons_against(self, device: torch.device | str = "cpu") -> dict[str, str]:
        """Engine -> why it cannot run on ``device``; "" where it can."""
        kind = torch.device(device).type
        return {name: reason(kind) for name, reason in self._reasons.items()}

    def resolve(self, name: str, device: torch.device | str = "cpu") -> str:
        """The engine that runs on ``device`` for a name or "auto".

        Raises:
          UserError: the name is unknown or the engine cannot run there.
        """
        key = (name, torch.device(device).type)
        if key not in self._resolved:
            self._resolved[key] = self._resolve(*key)
        return self._resolved[key]

    def _resolve(self, name: str, kind: str) -> str:
        if name == "auto":
            return next(engine for engine, reason in self._reasons.items() if not reason(kind))
        if name not in self._reasons:
            raise UserError(f"unknown {self.operation} engine {name!r}: choose {', '.join(self.names)}")
        reason = self._reasons[name](kind)
        if reason:
            last = list(self._reasons)[-1]
            raise UserError(f"{self.operation} engine {name} cannot run: {reason}; use auto or {last}")
        return name


def anywhere(kind: str) -> str:
    """The reason of an engine that runs on every device: none."""
    return ""


def needs_cuda(reason: Callable[[], str]) -> Callable[[str], str]:
    """The reason of an engine that runs on CUDA devices, unless ``reason`` finds something else that is missing."""
    return lambda kind: reason() if kind == "cuda" else "needs a CUDA device"


@cache
def import_reason(module: str) -> str:
    """Why an optional package cannot be imported, or ""."""
    package = module.replace("_", "-")
    if not is_installed(module):
        return f"{package} is not installed (see requirements-cluster.txt)"
    try:
        importlib.import_module(module)
    except Exception as error:  # built for another torch or CUDA; whatever a package raises then
        return f"{package} does not load: {' '.join(str(error).split()) or type(error).__name__}"
    return ""


def is_installed(module: str) -> bool:
    """Whether ``module`` can be found; it is not imported."""
    return importlib.util.find_spec(module) is not None
