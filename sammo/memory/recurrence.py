"""Which part of an encoder's state is recurrent, and how a chunk decays it: the one place that knows.

A mixer has a recurrent state if it names the field of its state that holds it (``recurrent_leaf``) and tells the decay
of each frame (``log_decay``). What is required of that state is that it is linear in its past,

    S_t = decay_t(S_{t-1}) + what frame t writes,

so that what older frames wrote can be followed through time and taken away. Where a frame's decay is more than a factor
a head (a gated delta rule multiplies by a matrix), another :class:`Decay` with the same two operations does it.
"""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Callable, Iterator, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sammo.encoder import Encoder, EncoderState
from sammo.encoder.mixers import Mixer

Place = tuple[int, int]  # (stack, layer)


@runtime_checkable
class Recurrent(Protocol):
    """A mixer with a recurrent state of H heads."""

    recurrent_leaf: str  # the field of its state, (N, H, ...)

    def log_decay(self, u: Tensor) -> Tensor:
        """u (N, T, C), the mixer's input -> (N, T, H), log of the factor by which each frame decays the state."""
        ...

    def time_constants(self) -> Tensor:
        """(H,) frames after which the state has fallen to 1/e, where the input does not change that."""
        ...

    def register_forward_pre_hook(self, hook: Callable[..., None]) -> RemovableHandle:
        """As of any module."""
        ...


@dataclass(frozen=True)
class Decay:
    """What some frames leave of the state before them: a factor a head."""

    log: Tensor  # (N, H)

    def __call__(self, leaf: Tensor) -> Tensor:
        """leaf (N, H, ...), the state or a part of it -> the same after those frames."""
        return leaf * self.log.exp().reshape(*self.log.shape, *(1,) * (leaf.ndim - 2))

    def after(self, earlier: Decay) -> Decay:
        """The decay over ``earlier`` frames and then these."""
        return Decay(self.log + earlier.log)


def mixers(encoder: Encoder) -> dict[Place, Mixer]:
    """The mixer of every layer."""
    return {
        (stack, layer): module.mixer
        for stack, found in enumerate(encoder.stacks)
        for layer, module in enumerate(found.layers)
    }


def recurrent_mixers(encoder: Encoder) -> dict[Place, Recurrent]:
    """The mixers that have a recurrent state."""
    return {place: mixer for place, mixer in mixers(encoder).items() if isinstance(mixer, Recurrent)}


def recurrent_leaves(state: EncoderState, recurrent: dict[Place, Recurrent]) -> dict[Place, Tensor]:
    """The recurrent parts (N, H, ...) of a state."""
    return {
        (stack, layer): getattr(state.stacks[stack][layer].mixer, mixer.recurrent_leaf)
        for (stack, layer), mixer in recurrent.items()
    }


def with_leaves(state: EncoderState, recurrent: dict[Place, Recurrent], leaves: dict[Place, Tensor]) -> EncoderState:
    """``state`` with other recurrent parts; caches of convolutions and attention stay."""
    stacks = [list(layers) for layers in state.stacks]
    for (stack, layer), leaf in leaves.items():
        old = stacks[stack][layer]
        mixer = old.mixer._replace(**{recurrent[stack, layer].recurrent_leaf: leaf})
        stacks[stack][layer] = old._replace(mixer=mixer)
    return state._replace(stacks=tuple(tuple(layers) for layers in stacks))


@contextmanager
def watch_decays(recurrent: dict[Place, Recurrent]) -> Iterator[dict[Place, Tensor]]:
    """Yields a dict that holds the log decays (N, T, H) of every mixer's last pass."""
    seen: dict[Place, Tensor] = {}

    def watch(place: Place) -> Callable:
        def hook(mixer: Recurrent, inputs: tuple) -> None:
            seen[place] = mixer.log_decay(inputs[0])

        return hook

    handles = [mixer.register_forward_pre_hook(watch(place)) for place, mixer in recurrent.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def silenced(encoder: Encoder) -> Iterator[None]:
    """Every mixer's output is zero."""

    def hook(mixer: nn.Module, inputs: tuple, output: tuple) -> tuple:
        return (torch.zeros_like(output[0]), *output[1:])

    handles = [mixer.register_forward_hook(hook) for mixer in mixers(encoder).values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class ChunkWindow:
    """Holds the recurrent state of a batch to what its last ``chunks`` chunks wrote; 0: to nothing.

    The window makes every layer's state, and by it the input of the layers above, that of a run of its own: what is
    taken away is what this run's chunks wrote.
    """

    def __init__(self, recurrent: dict[Place, Recurrent], chunks: int) -> None:
        self._recurrent = recurrent
        self._chunks = chunks
        # What each chunk wrote as it stood at that chunk's end, and the chunk's decay; the oldest first.
        self._written: dict[Place, deque[tuple[Tensor, Decay]]] = {place: deque() for place in recurrent}

    def limit(self, before: EncoderState, after: EncoderState, log_decays: dict[Place, Tensor]) -> EncoderState:
        """The states around a chunk and the log decays (N, T, H) of its frames -> the state for the next chunk."""
        old, new = recurrent_leaves(before, self._recurrent), recurrent_leaves(after, self._recurrent)
        limited = {
            place: self._limit(self._written[place], old[place], leaf, Decay(log_decays[place].sum(dim=1)))
            for place, leaf in new.items()
        }
        return with_leaves(after, self._recurrent, limited)

    def _limit(self, written: deque[tuple[Tensor, Decay]], old: Tensor, new: Tensor, decay: Decay) -> Tensor:
        if self._chunks == 0:
            return torch.zeros_like(new)
        written.append((new - decay(old), decay))
        if len(written) <= self._chunks:
            return new
        expired, _ = written.popleft()
        since = written[0][1]
        for _, later in list(written)[1:]:
            since = later.after(since)
        return new - since(expired)
