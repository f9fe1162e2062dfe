"""Pieces that keep Zipformer's activations and parameters in range while it trains.

Nothing here changes a value in the forward pass of a trained model except the activations and
BiasNorm: balancers, whitening and penalties only edit gradients.
"""

from __future__ import annotations

from sammo.regularize.activations import ActivationDropoutLinear, swoosh_l, swoosh_r
from sammo.regularize.dropout import Dropout, SharedDropout, masked, sequence_mask
from sammo.regularize.gradients import (
    Balancer,
    Whiten,
    limit_param_value,
    load_regularizer_state,
    penalize_abs_values_gt,
    regularizer_state,
    scale_grad,
    settle,
    unsettled,
)
from sammo.regularize.norm import BiasNorm
from sammo.regularize.schedule import FloatLike, PiecewiseLinear, ScheduledFloat, set_batch_count

__all__ = [
    "ActivationDropoutLinear",
    "Balancer",
    "BiasNorm",
    "Dropout",
    "FloatLike",
    "PiecewiseLinear",
    "ScheduledFloat",
    "SharedDropout",
    "Whiten",
    "limit_param_value",
    "load_regularizer_state",
    "masked",
    "penalize_abs_values_gt",
    "regularizer_state",
    "scale_grad",
    "sequence_mask",
    "set_batch_count",
    "settle",
    "swoosh_l",
    "swoosh_r",
    "unsettled",
]
