"""What training draws at random, and the state of its generators as plain values for a checkpoint."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from sammo.encoder import EncoderConfig


def seed_everything(seed: int) -> None:
    """Python, NumPy and PyTorch, the GPUs included."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def draw_chunk(config: EncoderConfig, seed: int, batch: int) -> tuple[int, int | None]:
    """Chunk size and left context to train a batch with: the same in all processes, and after a resume."""
    draw = random.Random(f"{seed}/{batch}")
    chunk, left = draw.choice(config.chunk_sizes), draw.choice(config.left_context_frames)
    if not config.left_context:
        return chunk, None
    return chunk, left if chunk != -1 else -1


def random_state(device: torch.device) -> dict[str, Any]:
    """Tensors, numbers and containers of them."""
    version, numbers, gauss = random.getstate()
    current = np.random.get_state()
    assert isinstance(current, tuple)
    name, keys, position, has_gauss, cached = current
    state = {
        "python": [version, torch.tensor(numbers, dtype=torch.int64), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Undoes :func:`random_state`."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
