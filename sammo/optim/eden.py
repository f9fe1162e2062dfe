"""Eden, the learning-rate schedule of Zipformer (Yao et al., ICLR 2024, section 3.5)."""

from __future__ import annotations

from torch.optim import Optimizer

from sammo.errors import UserError


class Eden:
    """Learning rate over batches and epochs, with a linear warm-up in batches.

        lr = base_lr * ((batch / lr_batches)^2 + 1)^-0.25 * ((epoch / lr_epochs)^2 + 1)^-0.25 * warmup

    ``warmup`` goes from ``warmup_start`` to 1 over ``warmup_batches`` batches. A rate is set by
    :meth:`step_batch` and :meth:`step_epoch` only, so call ``step_epoch(epoch)`` before the first batch
    of an epoch and ``step_batch()`` after every batch. "Epoch" may be any measure of data seen.

    Args:
      optimizer: its groups' ``lr`` (or ``base_lr``, where a group has one) are the base rates.
      lr_batches: the number of batches after which the rate falls noticeably.
      lr_epochs: the same in epochs.
      warmup_batches: length of the warm-up; 0 for none.
      warmup_start: factor at batch 0, in [0, 1].
    """

    def __init__(
        self,
        optimizer: Optimizer,
        lr_batches: float,
        lr_epochs: float,
        warmup_batches: float = 500.0,
        warmup_start: float = 0.5,
    ) -> None:
        if not 0.0 <= warmup_start <= 1.0:
            raise UserError(f"Eden: warmup_start must be in [0, 1], got {warmup_start}")
        if lr_batches <= 0 or lr_epochs <= 0:
            raise UserError(f"Eden: lr_batches and lr_epochs must be positive, got {lr_batches} and {lr_epochs}")
        self.optimizer = optimizer
        self.lr_batches = lr_batches
        self.lr_epochs = lr_epochs
        self.warmup_batches = warmup_batches
        self.warmup_start = warmup_start
        self.batch = 0
        self.epoch = 0
        for group in optimizer.param_groups:
            group.setdefault("base_lr", group["lr"])
        self.base_lrs = [group["base_lr"] for group in optimizer.param_groups]

    def factor(self) -> float:
        """Learning rate over base rate at the current batch and epoch."""
        # Written as the original writes it, so that the rates agree to the last bit.
        by_batch = ((self.batch**2 + self.lr_batches**2) / self.lr_batches**2) ** -0.25
        by_epoch = ((self.epoch**2 + self.lr_epochs**2) / self.lr_epochs**2) ** -0.25
        return by_batch * by_epoch

    def warmup(self) -> float:
        """The warm-up factor at the current batch."""
        if self.batch >= self.warmup_batches:
            return 1.0
        return self.warmup_start + (1.0 - self.warmup_start) * (self.batch / self.warmup_batches)

    def step_batch(self, batch: int | None = None) -> None:
        """Count one batch, or set the count of batches since the start of training."""
        self.batch = self.batch + 1 if batch is None else batch
        self._set_rates()

    def step_epoch(self, epoch: int | None = None) -> None:
        """Count one epoch, or set it: ``step_epoch(epoch)`` at its start, ``step_epoch()`` at its end."""
        self.epoch = self.epoch + 1 if epoch is None else epoch
        self._set_rates()

    def _set_rates(self) -> None:
        factor, warmup = self.factor(), self.warmup()
        for group, base_lr in zip(self.optimizer.param_groups, self.base_lrs):
            group["lr"] = base_lr * factor * warmup

    def get_last_lr(self) -> list[float]:
        """The learning rate of every group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, int]:
        """Batch and epoch. The base rates are left out: a resumed run may change them."""
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.batch = int(state["epoch"]), int(state["batch"])
