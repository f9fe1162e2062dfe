"""Averages of model parameters over training, as in icefall: kept in float64 while training runs, and taken
between two checkpoints afterwards.

The running average over batches 1..n, updated every ``period`` batches, is

    avg_n = avg_(n - period) * (n - period) / n + model_n * period / n

and so the average over the batches after ``start`` up to ``end`` is

    (avg_end * end - avg_start * start) / (end - start)
"""

from __future__ import annotations

from typing import Sequence

import torch
from torch import Tensor, nn

from sammo.checkpoint.schema import Weights


class AveragedModel:
    """The running average of a model's floating-point values.

    Args:
      model: averaged where it is, so that its device is the average's.
      period: batches between updates.
    """

    def __init__(self, model: nn.Module, period: int) -> None:
        self.period = period
        self.state = {name: value.to(torch.float64, copy=True) for name, value in _floats(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module, batch: int) -> None:
        """To be called after every batch; acts if ``batch`` (1, 2, ...) is a multiple of the period."""
        if batch % self.period:
            return
        averages = list(self.state.values())
        values = [value.to(torch.float64) for value in _floats(model).values()]
        torch._foreach_lerp_(averages, values, self.period / batch)

    def load(self, state: Weights) -> None:
        """Takes over ``state``, a copy of another's."""
        for name, value in self.state.items():
            value.copy_(state[name])


def _floats(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if value.is_floating_point()}


def average_between(start: Weights, start_batch: int, end: Weights, end_batch: int) -> dict[str, Tensor]:
    """Average over the batches after ``start_batch`` up to ``end_batch``, of two running averages; float64."""
    share = end_batch / (end_batch - start_batch)
    return {
        name: torch.lerp(start[name].to(torch.float64), value.to(torch.float64), share) for name, value in end.items()
    }


def average_states(states: Sequence[Weights]) -> dict[str, Tensor]:
    """The plain mean of the floating-point values of several models; float64."""
    total = {name: value.to(torch.float64, copy=True) for name, value in states[0].items() if value.is_floating_point()}
    for state in states[1:]:
        for name, value in total.items():
            value += state[name]
    return {name: value / len(states) for name, value in total.items()}
