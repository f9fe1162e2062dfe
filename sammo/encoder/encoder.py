"""The encoder: front-end, stacks at their frame rates, downsampling to 25 Hz.

One forward pass serves training, simulated streaming (whole utterances, chunks by masks and
blocks) and real streaming (windows of an utterance, a state from one to the next).
"""

from __future__ import annotations

import random
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sammo.encoder.causal_conv import CONV_ENGINES
from sammo.encoder.config import EMBED_RATE, WINDOW_EXTRA_FRAMES, EncoderConfig
from sammo.encoder.frontend import LOOKAHEAD, Frontend, all_full
from sammo.encoder.mamba2 import Mamba2
from sammo.encoder.plan import Plan, make_plan, tile_mask
from sammo.encoder.resample import Downsample
from sammo.encoder.ssd import SCAN_ENGINES
from sammo.encoder.state import AttentionState, EncoderState, LayerState
from sammo.encoder.zipformer import Stack
from sammo.errors import UserError

FEATURE_MASK_PROB = 0.125
FRONTEND_FRAMES = 7  # what the front-end's convolutions use up, before each embed frame takes 2


class EncoderOutput(NamedTuple):
    """What an encoder returns."""

    frames: Tensor  # (N, T'', C) at 25 Hz
    lengths: Tensor  # (N,) valid frames
    state: EncoderState | None  # for the next window; None if no state was given


class Encoder(nn.Module):
    """Sammo or Zipformer, by its configuration."""

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
        self.stacks = nn.ModuleList(Stack(config, i) for i in range(len(config.downsampling)))
        self.downsample = Downsample(config.output_downsampling)

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
          lengths: (N,) valid feature frames.
          state: of :meth:`init_state` or of the window before.
          chunk_size: embed frames (50 Hz) per chunk, -1 for one chunk. None: drawn from the
            configuration in training, otherwise -1; with a state, the whole window.
          left_context_frames: embed frames that attention sees before its chunk, -1 for all. None:
            drawn in training, otherwise -1; with a state, what the state holds. Sammo has none.

        Returns:
          frames (N, T'', C) with T'' = ((T - 7) // 2 + 1) // 2, or n * chunk_size / 2 with a state.

        Raises:
          UserError: the model cannot do this chunk size, or T does not fit it.
        """
        config = self.config
        frames = max(0, (features.shape[1] - FRONTEND_FRAMES) // 2)
        if state is None:
            chunk, left = self._draw_chunk(chunk_size, left_context_frames)
            if frames == 0:
                features = F.pad(features, (0, 0, 0, FRONTEND_FRAMES + 2 - features.shape[1]))
        else:
            chunk, left = self._window_chunk(features.shape[1], chunk_size, state)
            frames -= LOOKAHEAD
        x, lengths, past = self.frontend(features, lengths, None if state is None else state.frontend)
        if not config.mask_padding and chunk > frames:
            chunk = -1
        masks = self._feature_masks(x) if self.training else None
        if chunk > 0 and x.shape[1] % chunk:
            x = F.pad(x, (0, 0, 0, -x.shape[1] % chunk))
        padded = x.shape[1]
        valid = None if all_full(lengths, padded) else lengths
        ends = valid
        if not config.mask_padding:
            ends = None if padded == frames else torch.full_like(lengths, frames)
        plans = self._plans(padded, chunk, left, valid, state, x.shape[0], x.device)

        outputs, next_states = [], []
        for index, stack in enumerate(self.stacks):
            x = _set_channels(x, stack.dim)
            x, stack_state = stack(
                x,
                plans[stack.factor],
                ends,
                None if masks is None else masks[index],
                None if state is None else state.stacks[index],
            )
            outputs.append(x)
            next_states.append(stack_state)
        x = self.downsample(self._widest(outputs), ends)[:, : (frames + 1) // 2]
        if state is None:
            return EncoderOutput(x, (lengths + 1) // 2, None)
        seen = state.seen
        if isinstance(seen, Tensor):
            seen = (seen + lengths).clamp(max=left)
        return EncoderOutput(
            x, (lengths + 1) // 2, EncoderState(past, tuple(next_states), seen)
        )

    def init_state(
        self,
        batch_size: int,
        left_context_frames: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> EncoderState:
        """The state of streams that have not begun: zeros.

        Args:
          left_context_frames: embed frames that attention will see before each chunk; ignored by
            Sammo, whose attention sees none.
        """
        config = self.config
        zipformer = config.name == "zipformer"
        if zipformer:
            self._check_left_context(left_context_frames, finite=True)

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(batch_size, *shape, device=device, dtype=dtype)

        stacks = []
        for index, stack in enumerate(self.stacks):
            heads, kernel = config.num_heads[index], config.conv_kernel[index]
            left = left_context_frames // stack.factor
            layers = []
            for layer in stack.layers:
                attention, mixer = (), None
                if zipformer:
                    values = heads * config.value_head_dim[index]
                    attention = AttentionState(
                        zeros(left, heads * config.query_head_dim[index]),
                        zeros(left, values),
                        zeros(left, values),
                    )
                    mixer = zeros(left, 3 * stack.dim // 4)
                else:
                    mixer = layer.mixer.init_state(batch_size, device, dtype)
                convs = (zeros(kernel // 2, stack.dim), zeros(kernel // 2, stack.dim))
                layers.append(LayerState(attention, mixer, *convs))
            stacks.append(tuple(layers))
        seen = torch.zeros(batch_size, dtype=torch.int64, device=device) if zipformer else ()
        frontend = self.frontend.init_state(batch_size, device, dtype)
        return EncoderState(frontend, tuple(stacks), seen)

    def time_constants(self) -> dict[int, Tensor]:
        """Stack -> seconds that its recurrent heads remember where the input does not change it, (layers * heads,)."""
        found = {}
        for index, stack in enumerate(self.stacks):
            blocks = [module for module in stack.modules() if isinstance(module, Mamba2)]
            if blocks:
                found[index] = torch.cat([block.time_constants() for block in blocks]) * stack.factor / EMBED_RATE
        return found

    def set_engines(self, scan: str = "auto", conv: str = "auto") -> None:
        """Who computes the Mamba-2 blocks, see :mod:`sammo.encoder.ssd` and :mod:`sammo.encoder.causal_conv`.

        Raises:
          UserError: an engine is unknown or cannot run on the device of the parameters.
        """
        device = next(self.parameters()).device
        SCAN_ENGINES.resolve(scan, device)
        CONV_ENGINES.resolve(conv, device)
        for module in self.modules():
            if isinstance(module, Mamba2):
                module.scan_engine, module.conv_engine = scan, conv

    def check_chunk_size(self, chunk_size: int, left_context_frames: int = -1) -> None:
        """Raise UserError where the model cannot do these, in embed frames (50 Hz)."""
        multiple = self.config.chunk_multiple
        if chunk_size != -1 and (chunk_size <= 0 or chunk_size % multiple):
            raise UserError(
                f"chunk size {chunk_size} does not work with this model: use a positive multiple "
                f"of {multiple}, or -1 for whole utterances"
            )
        if self.config.name == "zipformer":
            self._check_left_context(left_context_frames)

    def _check_left_context(self, left: int, finite: bool = False) -> None:
        multiple = self.config.chunk_multiple
        if left % multiple and left != -1 or left < -1 or (finite and left == -1):
            raise UserError(
                f"left context {left} does not work with this model: use a multiple of {multiple} "
                "frames" + ("" if finite else ", or -1 for all")
            )

    def _draw_chunk(self, chunk: int | None, left: int | None) -> tuple[int, int]:
        """(chunk size, left context) of a pass over whole utterances."""
        config = self.config
        if chunk is None:
            chunk = random.choice(config.chunk_sizes) if self.training else -1
        if config.name == "sammo":
            left = 0
        elif left is None:
            left = -1
            if self.training and chunk != -1:
                left = random.choice(config.left_context_frames)
        self.check_chunk_size(chunk, left)
        return chunk, left

    def _window_chunk(self, frames: int, chunk: int | None, state: EncoderState) -> tuple[int, int]:
        """(chunk size, left context) of a streaming window of ``frames`` feature frames."""
        embed, odd = divmod(frames - WINDOW_EXTRA_FRAMES, 2)
        chunk = embed if chunk in (None, -1) else chunk
        self.check_chunk_size(chunk)
        if odd or embed <= 0 or embed % chunk:
            raise UserError(
                f"a streaming window of {frames} feature frames does not hold whole chunks: "
                f"{2 * chunk + WINDOW_EXTRA_FRAMES} are needed for one of {chunk}, "
                f"{2 * chunk} more for each further one"
            )
        if self.config.name == "sammo":
            return chunk, 0
        return chunk, state.stacks[0][0].attention.key.shape[1] * self.stacks[0].factor

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
        if state is not None and left > 0 and not all_full(state.seen, left):
            seen = state.seen
        plans = {}
        for factor in set(self.config.downsampling):
            length = (frames + factor - 1) // factor
            plan = make_plan(
                length,
                chunk if chunk == -1 else chunk // factor,
                left if left == -1 else left // factor,
                None if valid is None else (valid + factor - 1) // factor,
                streaming=state is not None,
                seen=None if seen is None else seen // factor,
                own_ends=self.config.mask_padding,
                device=device,
            )
            mask = tile_mask(plan.mask, batch * (length // plan.rows))
            plans[factor] = plan._replace(mask=mask)
        return plans

    def _feature_masks(self, x: Tensor) -> list[Tensor]:
        """One mask (N, 1, C) per stack, drawn so that they agree: some sequences use only the
        first ``unmasked_dim`` channels of every stack, some others half of the rest too."""
        config = self.config
        keep = torch.rand(2, x.shape[0], 1, 1, device=x.device) > FEATURE_MASK_PROB
        keep = torch.stack([keep[0], keep[0] & keep[1]]).to(x.dtype)
        masks = []
        for dim, unmasked in zip(config.encoder_dim, config.unmasked_dim):
            middle = (dim - unmasked) // 2
            parts = [
                x.new_ones(x.shape[0], 1, unmasked),
                keep[0].expand(-1, -1, middle),
                keep[1].expand(-1, -1, dim - unmasked - middle),
            ]
            masks.append(torch.cat(parts, dim=-1))
        return masks

    def _widest(self, outputs: list[Tensor]) -> Tensor:
        """The last stack's output, with channels it does not have from the last stack that does."""
        pieces, have = [outputs[-1]], outputs[-1].shape[-1]
        for output in reversed(outputs[:-1]):
            if output.shape[-1] > have:
                pieces.append(output[..., have:])
                have = output.shape[-1]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=-1)


def _set_channels(x: Tensor, channels: int) -> Tensor:
    """Drop the last channels, or append zeros."""
    if channels <= x.shape[-1]:
        return x[..., :channels].contiguous()
    return F.pad(x, (0, channels - x.shape[-1]))


def build_encoder(config: EncoderConfig) -> Encoder:
    """A new encoder with random weights."""
    return Encoder(config)
