"""ScaledAdam and its Eden learning-rate schedule."""

from sammo.optim.eden import Eden
from sammo.optim.scaled_adam import ClippingStats, ScaledAdam

__all__ = ["ClippingStats", "Eden", "ScaledAdam"]
