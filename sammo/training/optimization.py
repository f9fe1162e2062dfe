"""From a loss to the next parameters: loss scaling, ScaledAdam and its learning rates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sammo.optim import Eden, ScaledAdam
from sammo.training.config import TrainConfig
from sammo.training.precision import Precision


class Optimization:
    """Optimizer, learning-rate schedule and precision of a run, for a model on ``device``."""

    def __init__(self, model: nn.Module, config: TrainConfig, device: torch.device) -> None:
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        plain = [name for name in dynamics(model) if name in trained] if config.ssm_lr_scale else []
        self.optimizer = ScaledAdam(
            [{"named_params": list(trained.items())}],
            lr=config.base_lr,
            clipping_scale=config.clipping_scale,
            plain_lr_scale=dict.fromkeys(plain, config.ssm_lr_scale),
        )
        self.scheduler = Eden(
            self.optimizer, config.lr_batches, config.lr_epochs, config.lr_warmup_batches, config.lr_warmup_start
        )
        self.precision = Precision(config.precision, device)

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of ``loss``, scaled."""
        self.precision.scaler.scale(loss).backward()

    def measure(self) -> Tensor:
        """Norms of all gradients, which it unscales, see :meth:`ScaledAdam.measure`; the first is the plain one."""
        if self.precision.scaler.is_enabled():
            self.precision.scaler.unscale_(self.optimizer)
        return self.optimizer.measure()

    def step(self, batch: int, finite: bool) -> None:
        """Updates the parameters for batch number ``batch``, unless its loss or gradient is not ``finite``."""
        self.scheduler.step_batch(batch)
        if finite:
            self.precision.scaler.step(self.optimizer)
        self.precision.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def numbers(self) -> dict[str, float | None]:
        """What the last step was like, by the names of TensorBoard."""
        clipping = self.optimizer.clipping_stats()[0]
        return {
            "lr": max(self.scheduler.get_last_lr()),
            "clip_norm": clipping.norm,
            "clip_threshold": clipping.threshold,
            "clip_scale": clipping.scale,
            "clipped_share": clipping.fraction_clipped,
        }

    def state(self) -> dict[str, dict[str, Any]]:
        """Fields of TrainingState; the inverse of :meth:`load`."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.precision.scaler.state_dict(),
        }

    def load(self, optimizer: dict[str, Any], scheduler: dict[str, Any], scaler: dict[str, Any]) -> None:
        """Takes over what :meth:`state` returned."""
        self.optimizer.load_state_dict(optimizer)
        self.scheduler.load_state_dict(scheduler)
        if self.precision.scaler.is_enabled() and scaler:
            self.precision.scaler.load_state_dict(scaler)


def dynamics(model: nn.Module) -> list[str]:
    """Names of the parameters that set how long the recurrent states of ``model`` remember."""
    return [
        f"{name}.{parameter}" for name, module in model.named_modules() for parameter in getattr(module, "dynamics", ())
    ]
