"""The transducer around an encoder: predictor, joiner, and the pruned loss that trains them."""

from __future__ import annotations

from sammo.transducer.config import ModelConfig, model_config
from sammo.transducer.engines import LOSS_ENGINES
from sammo.transducer.joiner import Joiner
from sammo.transducer.lattice import mutual_information
from sammo.transducer.loss import (
    full_loss,
    prune,
    prune_ranges,
    pruned_loss,
    smoothed_loss,
)
from sammo.transducer.model import Transducer, TransducerLoss, pad_tokens
from sammo.transducer.predictor import Predictor

__all__ = [
    "LOSS_ENGINES",
    "Joiner",
    "ModelConfig",
    "Predictor",
    "Transducer",
    "TransducerLoss",
    "full_loss",
    "model_config",
    "mutual_information",
    "pad_tokens",
    "prune",
    "prune_ranges",
    "pruned_loss",
    "smoothed_loss",
]
