"""The language model that modified beam search can be fused with."""

from __future__ import annotations

from typing import Any, Callable, Protocol, Sequence

import torch
from torch import Tensor

LMState = Any  # None, a tensor, or a (nested) tuple of tensors; the batch is dim 0 of every tensor


class LanguageModel(Protocol):
    """A model of the next token of a sentence, such as :class:`sammo.lm.NgramLM`; ``digest`` tells models apart."""

    digest: str

    def start(self, device: torch.device) -> LMState:
        """The state of one sentence before its first token."""
        ...

    def step(self, tokens: Tensor, state: LMState) -> tuple[Tensor, LMState]:
        """Read one token of each of M sentences.

        Args:
          tokens: (M,) int64.
          state: of the M sentences.

        Returns:
          Natural-log probabilities (M,) of the tokens, and the state after them.
        """
        ...

    def check(self, state: LMState) -> None:
        """ValueError for a state, of the shapes and types of ``start``, that the model cannot be in."""
        ...


def map_tensors(fn: Callable[..., Tensor], *states: LMState) -> LMState:
    """Apply ``fn`` to the corresponding tensors of states of one structure."""
    first = states[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return fn(*states)
    return tuple(map_tensors(fn, *parts) for parts in zip(*states))


def stack_tensors(states: Sequence[LMState]) -> LMState:
    """Stack states along a new first dimension."""
    return map_tensors(lambda *tensors: torch.stack(tensors), *states)
