"""The stateless predictor: what the last few symbols say about the next."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sammo.regularize import Balancer

# Channels that each group of the convolution mixes.
GROUP_SIZE = 4


class Predictor(nn.Module):
    """Embedding, then one grouped convolution over the last ``context_size`` symbols and a ReLU.

    After Ghodsi et al., "RNN-transducer with stateless prediction network" (ICASSP 2020), with the
    convolution that icefall adds. With a context of one symbol there is only the embedding.

    Args:
      vocab_size: number of symbols, blank included.
      dim: width of the embedding and of the output.
      blank_id: the symbol that stands for the start of an utterance.
      context_size: how many symbols the output depends on.
    """

    def __init__(self, vocab_size: int, dim: int, blank_id: int = 0, context_size: int = 2) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.dim = dim
        self.blank_id = blank_id
        self.context_size = context_size
        self.embedding = nn.Embedding(vocab_size, dim)
        # Embeddings that drift in size would not go well with averaging of parameters.
        self.balancer = _size_balancer(dim)
        if context_size > 1:
            self.conv = nn.Conv1d(dim, dim, context_size, groups=dim // GROUP_SIZE, bias=False)
            self.balancer2 = _size_balancer(dim)

    def forward(self, y: Tensor, pad: bool = True) -> Tensor:
        """Predict from symbols.

        Args:
          y: (N, U) symbols; negative ones, used before the start of an utterance, embed as zeros.
          pad: True: as many zero embeddings come before ``y`` as give one output per symbol.
            False: ``y`` begins with its context, and the output has context_size - 1 fewer steps.

        Returns:
          (N, U, D), or (N, U - context_size + 1, D) without padding.
        """
        embedded = self.embedding(y.clamp(min=0)) * (y >= 0).unsqueeze(-1)
        embedded = self.balancer(embedded)
        if self.context_size == 1:
            return embedded
        x = embedded.transpose(1, 2)
        if pad:
            x = F.pad(x, (self.context_size - 1, 0))
        x = F.relu(self.conv(x).transpose(1, 2))
        return self.balancer2(x)


def _size_balancer(dim: int) -> Balancer:
    return Balancer(dim, min_positive=0.0, max_positive=1.0, min_abs=0.5, max_abs=1.0, prob=0.05)
