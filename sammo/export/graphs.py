"""A model as the three graphs that runtimes load: plain tensors in, plain tensors out.

    encoder   x (N, T, 80), the state, x_lens (N,)      ->  encoder_out (N, T', J), the next state
    decoder   y (N, context_size)                       ->  decoder_out (N, J)
    joiner    encoder_out (N, J), decoder_out (N, J)    ->  logit (N, V)

T is the window of one chunk, J the width in which the joiner adds; its two projections are part of encoder and decoder,
so that they are computed once a frame and once a context. The state is that of :mod:`sammo.export.states`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sammo import geometry
from sammo.export.states import state_layout
from sammo.transducer import Transducer


class EncoderGraph(nn.Module):
    """One chunk of every stream.

    Args:
      model: a trained one.
      chunk_size: embed frames (50 Hz).
      left_context_frames: embed frames that attention sees before the chunk, where the model keeps any.
    """

    def __init__(self, model: Transducer, chunk_size: int, left_context_frames: int = 0) -> None:
        super().__init__()
        self.encoder, self.project = model.encoder, model.joiner.encoder_proj
        self.chunk_size = chunk_size
        self.left_context_frames = left_context_frames if model.config.encoder.left_context else 0
        self.window = geometry.window(chunk_size)
        self.layout = state_layout(model.encoder, self.left_context_frames)
        self.inputs = ("x", *self.layout.names, "x_lens")
        self.outputs = ("encoder_out", *self.layout.outputs)

    def forward(self, x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        """x, the state and x_lens, see above -> encoder_out and the next state."""
        *states, x_lens = tensors
        output = self.encoder(x, x_lens, self.layout.unpack(states), chunk_size=self.chunk_size)
        return self.project(output.frames), *self.layout.pack(output.state)

    def axis(self, name: str) -> int:
        """The dimension of streams in an input or output."""
        return self.layout.axis(name) if name in (*self.layout.names, *self.layout.outputs) else 0

    def start(self, batch: int) -> tuple[Tensor, ...]:
        """The states of ``batch`` streams that have not begun."""
        one = self.layout.feed(self.layout.start())
        axes = (self.axis(name) for name in self.layout.names)
        return tuple(torch.cat([tensor] * batch, dim=axis).contiguous() for tensor, axis in zip(one, axes))

    def example(self, batch: int) -> tuple[Tensor, ...]:
        """Inputs of ``batch`` streams that have not begun."""
        x = torch.zeros(batch, self.window, self.encoder.config.feature_dim)
        return x, *self.start(batch), torch.full((batch,), self.window)


class DecoderGraph(nn.Module):
    """The predictor and its projection; symbols below 0, before the start of an utterance, embed as zeros."""

    inputs, outputs = ("y",), ("decoder_out",)

    def __init__(self, model: Transducer) -> None:
        super().__init__()
        self.predictor, self.project = model.predictor, model.joiner.predictor_proj

    def forward(self, y: Tensor) -> Tensor:
        """See above."""
        return self.project(self.predictor(y, pad=False).squeeze(1))

    def axis(self, name: str) -> int:
        """The dimension of streams."""
        return 0

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

    def axis(self, name: str) -> int:
        """The dimension of streams."""
        return 0

    def example(self, batch: int) -> tuple[Tensor, Tensor]:
        """Zeros for ``batch`` streams."""
        width = self.joiner.output_linear.in_features
        return torch.zeros(batch, width), torch.zeros(batch, width)
