"""Statistics of activations, their gradients and parameters (--print-diagnostics)."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Iterator

import torch
from torch import Tensor, nn


class Diagnostics:
    """Sums over the tensors at each place: count, sum of magnitudes, of squares, of positives, largest magnitude."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, place: str, tensor: Tensor) -> None:
        x = tensor.detach().float()
        sums = torch.stack([x.new_tensor(x.numel()), x.abs().sum(), x.square().sum(), (x > 0).sum()]).double()
        largest = x.abs().max().double()
        old = self._sums.get(place)
        new = torch.cat([sums, largest.reshape(1)])
        if old is not None:
            new = torch.cat([old[:4] + sums, torch.maximum(old[4], largest).reshape(1)])
        self._sums[place] = new

    def lines(self) -> Iterator[str]:
        yield f"{'mean |x|':>10} {'rms':>10} {'max |x|':>10} {'positive':>8}  where"
        for place, sums in self._sums.items():
            count, magnitudes, squares, positive, largest = sums.tolist()
            rms = (squares / count) ** 0.5
            yield f"{magnitudes / count:10.3e} {rms:10.3e} {largest:10.3e} {100 * positive / count:7.1f}%  {place}"


@contextmanager
def diagnose(model: nn.Module) -> Iterator[Diagnostics]:
    """Yields statistics of all modules' outputs and their gradients while the body runs, then of the parameters, too."""
    found = Diagnostics()
    handles = []
    for name, module in model.named_modules():

        def after(_: nn.Module, __: Any, output: Any, name: str = name or "model") -> None:
            if isinstance(output, Tensor) and output.is_floating_point() and output.numel():
                found.add(f"{name}: output", output)
                if output.requires_grad:
                    output.register_hook(lambda gradient: found.add(f"{name}: gradient of output", gradient))

        handles.append(module.register_forward_hook(after))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
    for name, parameter in model.named_parameters():
        found.add(f"{name}: value", parameter)
