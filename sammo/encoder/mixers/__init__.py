"""Mixers by name: a mixer is one file here and one line of the table.

nla           Zipformer's non-linear attention
mamba2        Sammo's: a selective state space block (Mamba-2)
gated_delta   a Gated DeltaNet block
none          nothing: what attention and convolutions reach without any
"""

from __future__ import annotations

from sammo.encoder.mixers.base import Decay, Mixer
from sammo.encoder.mixers.gated_delta import GatedDelta
from sammo.encoder.mixers.mamba2 import Mamba2
from sammo.encoder.mixers.nla import NonlinearAttention
from sammo.encoder.mixers.none import NoMixer

MIXERS: dict[str, type[Mixer]] = {
    "nla": NonlinearAttention,
    "mamba2": Mamba2,
    "gated_delta": GatedDelta,
    "none": NoMixer,
}

__all__ = ["MIXERS", "Decay", "Mixer"]
