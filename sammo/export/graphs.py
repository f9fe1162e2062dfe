"""A model as the three graphs that runtimes load: plain tensors in, plain tensors out.

    encoder   x (N, T, 80), h (1, N, A), c (1, N, B), x_lens (N,)  ->  encoder_out (N, T', J), next_h, next_c
    decoder   y (N, context_size)                                  ->  decoder_out (N, J)
    joiner    encoder_out (N, J), decoder_out (N, J)               ->  logit (N, V)

T is the window of one chunk, J the width in which the joiner adds; its two projections are part of encoder and decoder,
so that they are computed once a frame and once a context.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sammo import geometry
from sammo.encoder import Encoder
from sammo.encoder.state import pack_state, state_numel, unpack_state
from sammo.transducer import Transducer


class StateLayout(NamedTuple):
    """How a state of S values a stream becomes the two of an LSTM of one layer: h has the first half of the packed
    state, c the rest, and zeros are the start of a stream in both."""

    hidden: int  # A = ceil(S / 2), "d_model"
    cell: int  # B = S - A, "rnn_hidden_size"

    @classmethod
    def of(cls, encoder: Encoder) -> StateLayout:
        """The layout of an encoder whose state has one size."""
        size = state_numel(encoder.init_state(1))
        return cls(size - size // 2, size // 2)

    def split(self, packed: Tensor) -> tuple[Tensor, Tensor]:
        """(N, S) -> h (1, N, A), c (1, N, B)."""
        hidden, cell = packed.split([self.hidden, self.cell], dim=1)
        return hidden.unsqueeze(0), cell.unsqueeze(0)

    def join(self, hidden: Tensor, cell: Tensor) -> Tensor:
        """h (1, N, A), c (1, N, B) -> (N, S)."""
        return torch.cat([hidden.squeeze(0), cell.squeeze(0)], dim=1)


class EncoderGraph(nn.Module):
    """One chunk of every stream.

    Args:
      model: its encoder keeps no left context.
      chunk_size: embed frames (50 Hz).
    """

    inputs, outputs = ("x", "h", "c", "x_lens"), ("encoder_out", "next_h", "next_c")

    def __init__(self, model: Transducer, chunk_size: int) -> None:
        super().__init__()
        self.encoder, self.project = model.encoder, model.joiner.encoder_proj
        self.chunk_size = chunk_size
        self.layout = StateLayout.of(model.encoder)
        self.start: Any = model.encoder.init_state(1)  # gives the shapes of the state's parts

    def forward(self, x: Tensor, h: Tensor, c: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See above."""
        state = unpack_state(self.layout.join(h, c), self.start)
        output = self.encoder(x, x_lens, state, chunk_size=self.chunk_size)
        return self.project(output.frames), *self.layout.split(pack_state(output.state))

    def example(self, batch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Inputs of ``batch`` streams that have not begun."""
        window = geometry.window(self.chunk_size)
        x = torch.zeros(batch, window, self.encoder.config.feature_dim)
        state = self.layout.split(torch.zeros(batch, sum(self.layout)))
        return x, *state, torch.full((batch,), window)


class DecoderGraph(nn.Module):
    """The predictor and its projection; symbols below 0, before the start of an utterance, embed as zeros."""

    inputs, outputs = ("y",), ("decoder_out",)

    def __init__(self, model: Transducer) -> None:
        super().__init__()
        self.predictor, self.project = model.predictor, model.joiner.predictor_proj

    def forward(self, y: Tensor) -> Tensor:
        """See above."""
        return self.project(self.predictor(y, pad=False).squeeze(1))

    def example(self, batch: int) -> tuple[Tensor]:
        """The contexts of ``batch`` streams that have not begun."""
        return (torch.full((batch, self.predictor.context_size), self.predictor.blank_id),)


class JoinerGraph(nn.Module):
    """The joiner without its projections."""

    inputs, outputs = ("encoder_out", "decoder_out"), ("logit",)

    def __init__(self, model: Transducer) -> None:
        super().__init__()
        self.joiner = model.joiner

    def forward(self, encoder_out: Tensor, decoder_out: Tensor) -> Tensor:
        """See above."""
        return self.joiner(encoder_out, decoder_out, project=False)

    def example(self, batch: int) -> tuple[Tensor, Tensor]:
        """Zeros for ``batch`` streams."""
        width = self.joiner.output_linear.in_features
        return torch.zeros(batch, width), torch.zeros(batch, width)
