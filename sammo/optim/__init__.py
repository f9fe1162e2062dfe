"""ScaledAdam and its Eden learning-rate schedule."""

from sammo.optim.eden import Eden
from sammo.optim.group import ClippingStats
from sammo.optim.scaled_adam import ScaledAdam

__all__ = ["ClippingStats", "Eden", "ScaledAdam"]
