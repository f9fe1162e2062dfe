"""Training-time augmentation: noise mixing and SpecAugment, reproducible batch by batch.

Every random draw of a batch comes from one seed that is a function of (seed, epoch, rank, batch index), and the
process's own random states are put back afterwards. So a batch is the same whether it is made in the training
process or in a worker, and whether the run was interrupted before it or not.
"""

from __future__ import annotations

import hashlib
import random
from contextlib import contextmanager
from typing import Iterator

import numpy as np
import torch
from lhotse import CutSet
from lhotse.dataset import CutMix, SpecAugment


def batch_seed(seed: int, epoch: int, rank: int, index: int) -> int:
    """A 32-bit seed for batch ``index`` of ``rank`` in ``epoch``."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{rank}/{index}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Runs the body with the CPU random states of Python, NumPy and PyTorch set from ``seed``, then restores them.

    In one thread, as a loader's worker has: the last digits of a sum depend on how many share it, and a batch must not.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    python_state, numpy_state = random.getstate(), np.random.get_state()
    torch_state = torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    # Not torch.manual_seed: that one would reseed the GPUs too, and nothing here puts those back.
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
        torch.set_num_threads(threads)


class NoiseMixer:
    """Mixes noise into some of the cuts: probability ``p``, signal-to-noise ratio uniform in ``snr`` dB.

    A mixed cut is filled up with noise to the longest duration of its batch, as in icefall's recipes.
    """

    def __init__(self, noise: CutSet, p: float = 0.5, snr: tuple[float, float] = (10, 20)):
        self.noise = noise
        self.p = p
        self.snr = snr

    def __call__(self, cuts: CutSet, seed: int) -> CutSet:
        mix = CutMix(self.noise, snr=self.snr, p=self.p, preserve_id=True, seed=random.Random(seed))
        return mix(cuts)


def make_spec_augment(time_warp_factor: int = 80) -> SpecAugment:
    """SpecAugment with the values of the original experiments: 2 x 27 feature masks, 10 frame masks of up to 100."""
    return SpecAugment(
        time_warp_factor=time_warp_factor,
        num_feature_masks=2,
        features_mask_size=27,
        num_frame_masks=10,
        frames_mask_size=100,
    )
