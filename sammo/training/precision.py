"""Mixed precision: which type the forward pass computes in, and the scale of fp16's loss."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager

import torch
from torch.amp.grad_scaler import GradScaler

from sammo.errors import UserError

# A scale below this shows that something overflows whatever the scale; from 1 down an overflow is the model's.
SMALLEST_SCALE = 1.0e-2


class Precision:
    """autocast and gradient scaler of one run.

    Args:
      name: "auto", "bf16", "fp16" or "fp32"; auto is bf16 on GPUs that have it, fp16 on others, fp32 on CPUs.

    Raises:
      UserError: bf16 on a GPU without it.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        cuda = device.type == "cuda"
        bf16 = not cuda or torch.cuda.is_bf16_supported(including_emulation=False)
        if name == "auto":
            name = ("bf16" if bf16 else "fp16") if cuda else "fp32"
        if name == "bf16" and not bf16:
            raise UserError("this GPU has no bf16: use --precision fp16")
        self.name = name
        self.device = device
        self.dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[name]
        # Starts small and grows, as in icefall: early gradients are large.
        self.scaler = GradScaler(device.type, enabled=name == "fp16", init_scale=1.0)

    def autocast(self) -> AbstractContextManager:
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.name != "fp32")

    @property
    def scale(self) -> float:
        """The factor that the loss is multiplied with; 1 without scaling."""
        return self.scaler.get_scale() if self.scaler.is_enabled() else 1.0

    def grow(self, batch: int) -> None:
        """Doubles a small scale sooner than the scaler does (icefall's rule)."""
        if not self.scaler.is_enabled() or batch % 25:
            return
        scale = self.scale
        if scale < 2.0 or (batch % 100 == 0 and scale < 8.0) or (batch % 400 == 0 and scale < 32.0):
            self.scaler.update(scale * 2.0)
        if scale < SMALLEST_SCALE:
            logging.warning(f"the loss scale is small: {scale:g}")
