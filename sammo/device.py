"""The device that --device names."""

from __future__ import annotations

import torch

from sammo.errors import UserError


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of this process for "auto", "cpu" or "cuda"; UserError where there is no such GPU."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("--device cuda, but PyTorch sees no GPU here; sammo doctor says more")
    if local_rank >= torch.cuda.device_count():
        raise UserError(f"process {local_rank} of this machine has no GPU: there are {torch.cuda.device_count()}")
    return torch.device("cuda", local_rank)
