"""The joiner: logits of the next symbol from a frame and a context."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sammo.kernels.linear import Linear


class Joiner(nn.Module):
    """output_linear(tanh(encoder_proj(frame) + predictor_proj(context))).

    Args:
      encoder_dim, predictor_dim: widths of the two inputs.
      joiner_dim: width in which they are added.
      vocab_size: number of symbols, blank included.
    """

    def __init__(self, encoder_dim: int, predictor_dim: int, joiner_dim: int, vocab_size: int) -> None:
        super().__init__()
        self.encoder_proj = scaled_linear(encoder_dim, joiner_dim, scale=0.25)
        self.predictor_proj = scaled_linear(predictor_dim, joiner_dim, scale=0.25)
        self.output_linear: nn.Linear = Linear(joiner_dim, vocab_size)

    def forward(self, enc: Tensor, pred: Tensor, project: bool = True) -> Tensor:
        """Unnormalized logits.

        Args:
          enc: (..., encoder_dim) frames, or (..., joiner_dim) if already projected.
          pred: (..., predictor_dim) or (..., joiner_dim); the shapes broadcast.
          project: False where both were projected before (once per frame and per context, not
            once per pair).

        Returns:
          (..., V).
        """
        if project:
            enc, pred = self.encoder_proj(enc), self.predictor_proj(pred)
        return self.output_linear(torch.tanh(enc + pred))


def scaled_linear(in_dim: int, out_dim: int, scale: float) -> nn.Linear:
    """A linear layer whose weight starts ``scale`` times the usual size, its bias within 0.1 * scale."""
    layer = Linear(in_dim, out_dim)
    with torch.no_grad():
        layer.weight.mul_(scale)
        layer.bias.uniform_(-0.1 * scale, 0.1 * scale)
    return layer
