"""The encoder states of open streams, stacked as the batch that runs."""

from __future__ import annotations

from typing import Any, Callable, Generic, Hashable, Sequence, TypeVar

import torch

from sammo.encoder.state import cast_state, select_state, stack_states

Stream = TypeVar("Stream", bound=Hashable)


class StateStore(Generic[Stream]):
    """Keeps one state per stream: a tree of tensors, see :mod:`sammo.encoder.state`.

    As long as the members of the batch stay the same, the states stay stacked and nothing is copied between chunks.
    Streams that sit out a step are parked one by one.

    Args:
      init_state: makes the start state of one stream, batch size 1.
      dtype: in which states are kept between chunks; None: as they come.
    """

    def __init__(self, init_state: Callable[[], Any], dtype: torch.dtype | None = None) -> None:
        self._init_state = init_state
        self._dtype = dtype
        self._members: list[Stream | None] = []  # None: the stream of this row has ended
        self._stacked: Any = None
        self._parked: dict[Stream, Any] = {}

    def arrange(self, streams: Sequence[Stream]) -> list[Stream]:
        """Makes ``streams`` the members of the batch and returns them in the batch's order."""
        wanted = set(streams)
        if wanted != set(self._members):
            self._rearrange(streams, wanted)
        return [member for member in self._members if member is not None]  # which none is now

    def _rearrange(self, streams: Sequence[Stream], wanted: set[Stream]) -> None:
        rows = [row for row, member in enumerate(self._members) if member in wanted]
        for row, member in enumerate(self._members):
            if member is not None and member not in wanted:
                # A copy, not a view, which would keep the whole batch in memory.
                self._parked[member] = select_state(self._stacked, [row])
        kept = [self._members[row] for row in rows]
        new = [stream for stream in streams if stream not in set(kept)]
        parts = [select_state(self._stacked, rows)] if rows else []
        for stream in new:
            state = self._parked.pop(stream, None)
            parts.append(self._store(self._init_state()) if state is None else state)
        self._members = kept + new
        self._stacked = parts[0] if len(parts) == 1 else stack_states(parts)

    def take(self) -> Any:
        """The members' states, stacked, in the type that the encoder computes in."""
        return self._stacked if self._dtype is None else cast_state(self._stacked, torch.float32)

    def put(self, state: Any) -> None:
        """The members' next states."""
        self._stacked = self._store(state)

    def drop(self, stream: Stream) -> None:
        """Forgets a stream. The row of a member goes with the next change of the batch."""
        self._parked.pop(stream, None)
        self._members = [None if member is stream else member for member in self._members]

    def pop(self, stream: Stream) -> Any | None:
        """The state of a stream, which is forgotten here; None where it has none yet."""
        state = self.get(stream)
        self.drop(stream)
        return state

    def get(self, stream: Stream) -> Any | None:
        """A copy of the state of one stream, batch size 1, as it is kept; None for a stream that has none yet."""
        if stream in self._parked:
            return self._parked[stream]
        return select_state(self._stacked, [self._members.index(stream)]) if stream in self._members else None

    def set(self, stream: Stream, state: Any) -> None:
        """Gives a stream that is not in the batch the state to resume from."""
        self._parked[stream] = self._store(state)

    def _store(self, state: Any) -> Any:
        return state if self._dtype is None else cast_state(state, self._dtype)
