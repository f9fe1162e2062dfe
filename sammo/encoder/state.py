"""What a stream carries from chunk to chunk, and the one place that stacks, selects, packs and counts it.

Every module that looks back makes its own part (``init_state``), takes it and returns the next one; the layer, the
stack and the encoder collect the parts. A state is thus a tree of NamedTuples and tuples whose leaves are tensors; the
batch is dimension 0 of every leaf. All zeros is the state of a stream that has not begun.
"""

from __future__ import annotations

import math
from typing import Any, Callable, NamedTuple, Sequence

import torch
from torch import Tensor

from sammo.recording import sizes


class EncoderState(NamedTuple):
    """What an encoder carries from chunk to chunk."""

    frontend: Tensor  # (N, 3, F, C): the last inputs of the ConvNeXt block
    stacks: tuple[tuple[Any, ...], ...]  # stack -> layer -> what that layer's class calls its state
    # (N,) int64: embed frames the left context really holds, at most its length. It is a counter,
    # not an activation: state_numel leaves it out. Empty for encoders without left context.
    seen: Tensor | tuple[()]


def map_state(fn: Callable[..., Tensor], *states: Any) -> Any:
    """Apply ``fn`` to the leaves of one or more states of the same structure."""
    first = states[0]
    if isinstance(first, Tensor):
        return fn(*states)
    children = [map_state(fn, *leaves) for leaves in zip(*states)]
    return type(first)(*children) if hasattr(first, "_fields") else tuple(children)


def state_leaves(state: Any) -> list[Tensor]:
    """The tensors of a state in their fixed order."""
    if isinstance(state, Tensor):
        return [state]
    return [leaf for child in state for leaf in state_leaves(child)]


def stack_states(states: Sequence[Any]) -> Any:
    """Join the streams of several states into one batch."""
    if len(states) == 1:
        return states[0]
    return map_state(lambda *leaves: torch.cat(leaves), *states)


def select_state(state: Any, indices: Sequence[int] | Tensor) -> Any:
    """The streams at ``indices``, in that order, as a copy."""

    def pick(leaf: Tensor) -> Tensor:
        return leaf.index_select(0, torch.as_tensor(indices, device=leaf.device))

    return map_state(pick, state)


def cast_state(state: Any, dtype: torch.dtype) -> Any:
    """Floating-point leaves in ``dtype``; counters stay as they are."""
    return map_state(lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf, state)


def pack_state(state: Any) -> Tensor:
    """(N, S) with all leaves flattened side by side."""
    return torch.cat(flat_leaves(state), dim=1)


def unpack_state(flat: Tensor, like: Any) -> Any:
    """Undo :func:`pack_state`; ``like`` gives structure, shapes and integer types, at any N."""
    return shape_leaves(flat.split(leaf_widths(like), dim=1), like)


def flat_leaves(state: Any) -> list[Tensor]:
    """The leaves as (N, values) in the type of the first, counters as floats (exact: they are small)."""
    leaves = state_leaves(state)
    dtype = leaves[0].dtype
    return [leaf.reshape(sizes(leaf)[0], math.prod(sizes(leaf)[1:])).to(dtype) for leaf in leaves]


def leaf_widths(state: Any) -> list[int]:
    """Values per stream of every leaf, counters among them."""
    return [math.prod(sizes(leaf)[1:]) for leaf in state_leaves(state)]


def shape_leaves(flat: Sequence[Tensor], like: Any) -> Any:
    """Undo :func:`flat_leaves`; ``like`` gives structure, shapes and integer types, at any N."""
    shaped = (
        piece.reshape(sizes(piece)[0], *sizes(leaf)[1:]).to(piece.dtype if leaf.is_floating_point() else leaf.dtype)
        for piece, leaf in zip(flat, state_leaves(like))
    )
    return _rebuild(like, shaped)


def state_numel(state: Any) -> int:
    """Floating-point values per stream."""
    return sum(leaf[:1].numel() for leaf in state_leaves(state) if leaf.is_floating_point())


def _rebuild(like: Any, leaves: Any) -> Any:
    """The structure of ``like`` around new leaves, taken in order."""
    return map_state(lambda _: next(leaves), like)
