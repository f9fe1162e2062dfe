"""No mixer: the ablation that leaves the long range to nothing."""

from __future__ import annotations

from sammo.encoder.mixers.base import Mixer


class NoMixer(Mixer):
    """Adds zero and keeps nothing."""

    label = "no mixer"

    @classmethod
    def from_config(cls, config, stack):
        return cls()

    def forward(self, x, weights=None, plan=None, state=None):
        return x.new_zeros(()), state
