"""What makes inference on CPUs fast. The modules call it and need not know when it applies.

Each function computes what its plain counterpart does, which is also what runs in training, on GPUs and while a graph
is recorded, where these arrangements would not help or not be wanted.
"""

from __future__ import annotations

from sammo.cpu.convolution import OneChunk, depthwise_conv
from sammo.cpu.derived import DerivedWeights
from sammo.cpu.linear import linear
from sammo.cpu.swoosh import FoldedSwoosh, tanh

__all__ = ["DerivedWeights", "FoldedSwoosh", "OneChunk", "depthwise_conv", "linear", "tanh"]
