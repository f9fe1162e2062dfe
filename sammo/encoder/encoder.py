"""What all encoders do: front-end, chunks and left context, plans, state.

One forward pass serves training, simulated streaming (whole utterances, chunks by masks and
blocks) and real streaming (windows of an utterance, a state from one to the next).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Generic, Iterable, Iterator, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sammo import geometry
from sammo.encoder.config import EncoderConfig
from sammo.encoder.frontend import Frontend, all_full, on_device
from sammo.encoder.mixers import Mixer
from sammo.encoder.plan import Plan, make_plan, tile_mask
from sammo.encoder.position import POSITION_DROPOUT, relative_positions
from sammo.encoder.state import EncoderState, cast_state
from sammo.errors import UserError
from sammo.recording import as_frames, as_rows, sizes
from sammo.regularize import Dropout, masked


class EncoderOutput(NamedTuple):
    """What an encoder returns."""

    frames: Tensor  # (N, T'', C) at 25 Hz
    lengths: Tensor  # (N,) valid frames
    state: EncoderState | None  # for the next window; None if no state was given


M = TypeVar("M", bound=nn.Module, covariant=True)


class Modules(nn.ModuleList, Generic[M]):
    """An ``nn.ModuleList`` whose items have a type that type checkers know."""

    if TYPE_CHECKING:

        def __iter__(self) -> Iterator[M]: ...
        def __getitem__(self, index: int) -> M: ...


class Layer(nn.Module):
    """What stacks are made of. Its state is a NamedTuple with ``keys``, the left context of attention, among others."""

    mixer: Mixer

    def forward(self, x: Tensor, positions: Tensor, plan: Plan, state: Any = None) -> tuple[Tensor, Any]:
        """One layer.

        Args:
          x: (N, T, C).
          positions: (left + 2 rows - 1, pos_dim), of :func:`sammo.encoder.position.relative_positions`.
          plan: which frames see which.
          state: of :meth:`init_state` or of the window before; None: nothing came before.

        Returns:
          (N, T, C) and the next state, to be ignored if none was given.
        """
        raise NotImplementedError

    def init_state(self, batch: int, left: int | None) -> Any:
        """Zeros; left: frames of left context, None: attention keeps none."""
        raise NotImplementedError


class Stack(nn.Module):
    """The layers that run at one frame rate.

    Args:
      config: the encoder's.
      index: which of its stacks.
      layers: of which it is made.
    """

    def __init__(self, config: EncoderConfig, index: int, layers: Iterable[Layer]) -> None:
        super().__init__()
        self.factor, self.pos_dim = config.downsampling[index], config.pos_dim
        self.layers: Modules[Layer] = Modules(layers)
        self.position_dropout = Dropout(POSITION_DROPOUT)

    def run(self, x: Tensor, plan: Plan, states: tuple | None, mask: Tensor | None = None) -> tuple[Tensor, tuple]:
        """x (N, T, C) at this rate, a mask of channels (N, 1, C) or none -> (N, T, C), the layers' next states."""
        positions = relative_positions(plan.rows, plan.left, self.pos_dim, x.device, torch.float32)
        positions, next_states = self.position_dropout(positions), []
        x = as_rows(masked(x, mask))
        for layer, state in zip(self.layers, states or [None] * len(self.layers)):
            x, state = layer(x, positions, plan, state)
            x = masked(x, mask)
            next_states.append(state)
        return as_frames(x, plan), tuple(next_states)

    def init_state(self, batch: int, left: int | None) -> tuple:
        """Zeros; left: embed frames of left context, None: attention keeps none."""
        return tuple(layer.init_state(batch, None if left is None else left // self.factor) for layer in self.layers)


class Encoder(nn.Module):
    """The part that encoders share. A subclass makes ``stacks`` and runs them in :meth:`encode`.

    ``looks_back``: how many attentions of a layer follow one another, and how many convolutions; each of them looks back
    from the output of the one before it.
    """

    stacks: Modules[Stack]
    looks_back: ClassVar[int] = 1

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.out_dim = config.out_dim
        self.frontend = Frontend(
            config.feature_dim,
            config.frontend_channels,
            config.encoder_dim[0],
            config.mask_padding,
        )

    def encode(
        self, x: Tensor, plans: dict[int, Plan], ends: Tensor | None, states: tuple | None
    ) -> tuple[Tensor, tuple]:
        """Embed frames to output frames.

        Args:
          x: (N, T, C) at 50 Hz, T a multiple of the chunk size.
          plans: downsampling factor -> plan at that rate.
          ends: (N,) frames of x at which sequences end; None: at T.
          states: one per stack, or None.

        Returns:
          (N, ceil(T / 2), out_dim) at 25 Hz and the stacks' next states, to be ignored if none were given.
        """
        raise NotImplementedError

    def forward(
        self,
        features: Tensor,
        lengths: Tensor,
        state: EncoderState | None = None,
        *,
        chunk_size: int | None = None,
        left_context_frames: int | None = None,
    ) -> EncoderOutput:
        """Encode whole utterances, or with a state the next window of each stream.

        Args:
          features: (N, T, 80) at 100 Hz. With a state, T = 2 * n * chunk_size + 13 for n chunks,
            of which the last 13 frames come again in the next window; a window at the end of a
            stream is padded to such a length.
          lengths: (N,) valid feature frames. The output's lengths are on the same device: lengths on the CPU can be read
            without waiting for a GPU.
          state: of :meth:`init_state` or of the window before.
          chunk_size: embed frames (50 Hz) per chunk, -1 for one chunk. None: -1; with a state, the
            whole window.
          left_context_frames: embed frames that attention sees before its chunk, -1 for all. None:
            -1; with a state, what the state holds. Ignored without left context.

        Returns:
          frames (N, T'', C) with T'' = ((T - 7) // 2 + 1) // 2, or n * chunk_size / 2 with a state.

        Raises:
          UserError: the model cannot do this chunk size, or T does not fit it.
        """
        config = self.config
        frames = geometry.embed_frames(sizes(features)[1])
        if state is None:
            chunk, left = self._utterance_chunk(chunk_size, left_context_frames)
            if frames == 0:
                features = F.pad(features, (0, 0, 0, geometry.MINIMUM - features.shape[1]))
        else:
            chunk, left = self._window_chunk(sizes(features)[1], chunk_size, state)
            frames -= geometry.LOOKAHEAD
        x, lengths, past = self.frontend(features, lengths, None if state is None else state.frontend)
        if not config.mask_padding and chunk > frames:
            chunk = -1
        padded = sizes(x)[1]
        if chunk > 0 and padded % chunk:
            x = F.pad(x, (0, 0, 0, -padded % chunk))
            padded = x.shape[1]
        valid = None if all_full(lengths, padded) else on_device(lengths, x)
        ends = valid
        if not config.mask_padding:
            ends = None if padded == frames else torch.full((x.shape[0],), frames, device=x.device)
        plans = self._plans(padded, chunk, left, valid, state, x.shape[0], x.device)

        x, next_states = self.encode(x, plans, ends, None if state is None else state.stacks)
        x, out_lengths = x[:, : (frames + 1) // 2], (lengths + 1) // 2
        if state is None:
            return EncoderOutput(x, out_lengths, None)
        seen = state.seen
        if isinstance(seen, Tensor):  # there is left context
            seen = (seen + on_device(lengths, x)).clamp(max=left)
        return EncoderOutput(x, out_lengths, EncoderState(past, next_states, seen))

    def init_state(
        self,
        batch_size: int,
        left_context_frames: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> EncoderState:
        """The state of streams that have not begun: zeros.

        Args:
          left_context_frames: embed frames that attention will see before each chunk; ignored where it sees none.
        """
        left = None
        if self.config.left_context:
            self._check_left_context(left_context_frames, finite=True)
            left = left_context_frames
        with torch.device("cpu" if device is None else device):
            frontend = self.frontend.init_state(batch_size)
            stacks = tuple(stack.init_state(batch_size, left) for stack in self.stacks)
            seen = () if left is None else torch.zeros(batch_size, dtype=torch.int64)
        return cast_state(EncoderState(frontend, stacks, seen), dtype or torch.float32)

    def mixers(self) -> Iterator[tuple[int, Mixer]]:
        """(index of its stack, mixer) of every layer."""
        return ((index, layer.mixer) for index, stack in enumerate(self.stacks) for layer in stack.layers)

    def time_constants(self) -> dict[int, Tensor]:
        """Index of a stack -> time constants of its recurrent heads in seconds, (layers * heads,), see :class:`Mixer`."""
        found: dict[int, list[Tensor]] = {}
        for index, mixer in self.mixers():
            frames = mixer.time_constants()
            if frames is not None:
                found.setdefault(index, []).append(frames * self.stacks[index].factor / geometry.RATE)
        return {index: torch.cat(values) for index, values in found.items()}

    def set_engines(self, **engines: str) -> None:
        """Chooses the engine of each operation, scan="triton", conv="torch"; mixers without the operation ignore it.

        Raises:
          UserError: an engine is unknown or cannot run on the device of the parameters.
        """
        device = next(self.parameters()).device
        for _, mixer in self.mixers():
            for operation in mixer.engines.keys() & engines.keys():
                mixer.engines[operation].resolve(engines[operation], device)
                setattr(mixer, f"{operation}_engine", engines[operation])

    def engines(self) -> dict[str, str]:
        """Operation -> name of the engine that computes it on the device of the parameters."""
        device = next(self.parameters()).device
        return {
            table.operation: table.resolve(getattr(mixer, f"{operation}_engine"), device)
            for _, mixer in self.mixers()
            for operation, table in mixer.engines.items()
        }

    def check_chunk_size(self, chunk_size: int, left_context_frames: int = -1) -> None:
        """UserError where the model cannot do these, in embed frames (50 Hz)."""
        multiple = self.config.chunk_multiple
        if chunk_size != -1 and (chunk_size <= 0 or chunk_size % multiple):
            raise UserError(
                f"chunk size {chunk_size} does not work with this model: use a positive multiple "
                f"of {multiple}, or -1 for whole utterances"
            )
        if self.config.left_context:
            self._check_left_context(left_context_frames)

    def _check_left_context(self, left: int, finite: bool = False) -> None:
        multiple = self.config.chunk_multiple
        if left % multiple and left != -1 or left < -1 or (finite and left == -1):
            raise UserError(
                f"left context {left} does not work with this model: use a multiple of {multiple} "
                "frames" + ("" if finite else ", or -1 for all")
            )

    def _utterance_chunk(self, chunk: int | None, left: int | None) -> tuple[int, int]:
        """(chunk size, left context) of a pass over whole utterances."""
        chunk = -1 if chunk is None else chunk
        if not self.config.left_context:
            left = 0
        elif left is None:
            left = -1
        self.check_chunk_size(chunk, left)
        return chunk, left

    def _window_chunk(self, frames: int, chunk: int | None, state: EncoderState) -> tuple[int, int]:
        """(chunk size, left context) of a streaming window of ``frames`` feature frames."""
        embed, odd = divmod(frames - geometry.WINDOW_EXTRA, geometry.STRIDE)
        chunk = embed if chunk in (None, -1) else chunk
        self.check_chunk_size(chunk)
        if odd or embed <= 0 or embed % chunk:
            raise UserError(
                f"a streaming window of {frames} feature frames does not hold whole chunks: "
                f"{geometry.window(chunk)} are needed for one of {chunk}, "
                f"{geometry.STRIDE * chunk} more for each further one"
            )
        if not self.config.left_context:
            return chunk, 0
        return chunk, sizes(state.stacks[0][0].keys)[1] * self.stacks[0].factor

    def _plans(
        self,
        frames: int,
        chunk: int,
        left: int,
        valid: Tensor | None,
        state: EncoderState | None,
        batch: int,
        device: torch.device,
    ) -> dict[int, Plan]:
        """Downsampling factor -> the plan of stacks that have it."""
        seen = None
        if state is not None and left > 0 and isinstance(state.seen, Tensor) and not all_full(state.seen, left):
            seen = state.seen
        plans = {}
        for factor in set(self.config.downsampling):
            length = (frames + factor - 1) // factor
            plan = make_plan(
                length,
                chunk if chunk == -1 else chunk // factor,
                left if left == -1 else left // factor,
                valid if valid is None or factor == 1 else (valid + (factor - 1)) // factor,
                streaming=state is not None,
                seen=None if seen is None else seen // factor,
                own_ends=self.config.mask_padding,
                device=device,
            )
            mask = tile_mask(plan.mask, batch * (length // plan.rows))
            plans[factor] = plan._replace(mask=mask)
        return plans
