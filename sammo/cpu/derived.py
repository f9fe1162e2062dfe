"""Values computed from weights, kept as long as the weights stay the same."""

from __future__ import annotations

from typing import Any, Callable, Hashable

import torch
from torch import Tensor

MAX_KEPT = 16  # values per module; the oldest goes first


def stamp(weight: Tensor) -> tuple[int, int] | None:
    """What changes with a tensor's values: where they are and their version. None where that says nothing: tensors of
    another class, as fake ones, may have no memory of their own."""
    if type(weight) not in (Tensor, torch.nn.Parameter):
        return None
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version


class DerivedWeights:
    """A small cache of what a module derives from its weights.

    It is used only while gradients are off, and a change of a weight (in place, by assignment, by
    a move to another device) makes the kept value void. A copy of the module starts empty.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, tuple[Any, Any]] = {}

    def __call__(self, key: Hashable, make: Callable[[], Any], *weights: Tensor) -> Any:
        """``make()``, or what it returned before for this key and this state of ``weights``."""
        if torch.is_grad_enabled():
            return make()
        stamps = [stamp(weight) for weight in weights]
        if None in stamps:
            return make()
        kept = self._kept.get(key)
        if kept is None or kept[0] != stamps:
            if len(self._kept) >= MAX_KEPT:
                self._kept.pop(next(iter(self._kept)))
            kept = self._kept[key] = (stamps, make())
        return kept[1]

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()

    def __deepcopy__(self, memo: dict) -> DerivedWeights:
        return DerivedWeights()

    def __getstate__(self) -> dict:
        return {"_kept": {}}
