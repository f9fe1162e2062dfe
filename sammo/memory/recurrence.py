"""Which part of an encoder's state is recurrent, and how a chunk decays it: the one place that knows.

A mixer has a recurrent state if it names the field of its state that holds it (``recurrent_leaf``) and tells what frames leave
of it (``decay``). What is required of that state is that it is linear in its past,

    S_t = decay_t(S_{t-1}) + what frame t writes,

so that what older frames wrote can be followed through time and taken away.
"""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from functools import reduce
from typing import Callable, Iterator

import torch
from torch import Tensor, nn

from sammo.encoder import Encoder, EncoderState
from sammo.encoder.mixers import Decay, Mixer

Place = tuple[int, int]  # (stack, layer)


def apply(transition: Tensor, state: Tensor) -> Tensor:
    """What a :class:`Decay`'s transition leaves of a recurrent state (N, H, K, V), or of the transition of frames before."""
    return transition * state if transition.shape[-1] == 1 else transition @ state


def mixers(encoder: Encoder) -> dict[Place, Mixer]:
    """The mixer of every layer."""
    return {
        (stack, layer): module.mixer
        for stack, found in enumerate(encoder.stacks)
        for layer, module in enumerate(found.layers)
    }


def recurrent_mixers(encoder: Encoder) -> dict[Place, Mixer]:
    """The mixers that have a recurrent state."""
    return {place: mixer for place, mixer in mixers(encoder).items() if mixer.recurrent_leaf}


def _leaf(mixer: Mixer) -> str:
    assert mixer.recurrent_leaf is not None
    return mixer.recurrent_leaf


def recurrent_leaves(state: EncoderState, recurrent: dict[Place, Mixer]) -> dict[Place, Tensor]:
    """The recurrent parts (N, H, ...) of a state."""
    return {
        (stack, layer): getattr(state.stacks[stack][layer].mixer, _leaf(mixer))
        for (stack, layer), mixer in recurrent.items()
    }


def with_leaves(state: EncoderState, recurrent: dict[Place, Mixer], leaves: dict[Place, Tensor]) -> EncoderState:
    """``state`` with other recurrent parts; caches of convolutions and attention stay."""
    stacks = [list(layers) for layers in state.stacks]
    for (stack, layer), leaf in leaves.items():
        old = stacks[stack][layer]
        mixer = old.mixer._replace(**{_leaf(recurrent[stack, layer]): leaf})
        stacks[stack][layer] = old._replace(mixer=mixer)
    return state._replace(stacks=tuple(tuple(layers) for layers in stacks))


@contextmanager
def watch_decays(recurrent: dict[Place, Mixer]) -> Iterator[dict[Place, Decay]]:
    """Yields a dict that holds what every mixer's last pass leaves of the state before it."""
    seen: dict[Place, Decay] = {}

    def watch(place: Place) -> Callable:
        def hook(mixer: Mixer, inputs: tuple) -> None:
            x, _, _, state = inputs
            seen[place] = mixer.decay(x, state)

        return hook

    handles = [mixer.register_forward_pre_hook(watch(place)) for place, mixer in recurrent.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def silenced(encoder: Encoder) -> Iterator[None]:
    """Within the body the output of every mixer is zero."""

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

    def __init__(self, recurrent: dict[Place, Mixer], chunks: int) -> None:
        self._recurrent = recurrent
        self._chunks = chunks
        # What each chunk wrote as it stood at that chunk's end, and the chunk's transition; the oldest first.
        self._written: dict[Place, deque[tuple[Tensor, Tensor]]] = {place: deque() for place in recurrent}

    def limit(self, before: EncoderState, after: EncoderState, decays: dict[Place, Decay]) -> EncoderState:
        """The states around a chunk and what it leaves of the one before it -> the state for the next chunk."""
        old, new = recurrent_leaves(before, self._recurrent), recurrent_leaves(after, self._recurrent)
        limited = {
            place: self._limit(self._written[place], old[place], leaf, decays[place].transition)
            for place, leaf in new.items()
        }
        return with_leaves(after, self._recurrent, limited)

    def _limit(self, written: deque[tuple[Tensor, Tensor]], old: Tensor, new: Tensor, transition: Tensor) -> Tensor:
        if self._chunks == 0:
            return torch.zeros_like(new)
        written.append((new - apply(transition, old), transition))
        if len(written) <= self._chunks:
            return new
        expired, _ = written.popleft()
        since = reduce(lambda earlier, later: apply(later, earlier), (chunk for _, chunk in written))
        return new - apply(since, expired)
