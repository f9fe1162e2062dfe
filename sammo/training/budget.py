"""How long a run may train, how long it has trained, and how long it will."""

from __future__ import annotations

import time

from sammo.training.config import TrainConfig


class Budget:
    """Epochs, batches and minutes of training.

    Attributes:
      wall_seconds: trained so far, over all runs of the experiment.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.wall_seconds = 0.0
        self._since = time.monotonic()

    def start(self) -> None:
        """Time counts from here on."""
        self._since = time.monotonic()

    def lap(self) -> None:
        """Counts the time since the last lap. Only here: what decides on the budget is what a checkpoint keeps."""
        now = time.monotonic()
        self.wall_seconds, self._since = self.wall_seconds + now - self._since, now

    def reason_to_stop(self, epoch: int, batch: int) -> str:
        """Why nothing is left to do before ``epoch``, after ``batch`` batches in all; empty if something is."""
        config = self.config
        if epoch > config.num_epochs:
            return f"all {config.num_epochs} epochs are done"
        if config.max_steps and batch >= config.max_steps:
            return f"all {config.max_steps} batches of --max-steps are done"
        if config.time_budget_minutes and self.wall_seconds >= 60 * config.time_budget_minutes:
            return f"the {config.time_budget_minutes:g} minutes of --time-budget-minutes are used up"
        return ""

    def seconds_left(self, batches_left: float, batch: int, seconds_a_batch: float) -> float:
        """Until the end of the run, if ``batches_left`` come in all epochs; ``batch`` is the last one trained."""
        config = self.config
        if config.max_steps:
            batches_left = min(batches_left, config.max_steps - batch)
        seconds = batches_left * seconds_a_batch
        if config.time_budget_minutes:
            seconds = min(seconds, 60 * config.time_budget_minutes - self.wall_seconds)
        return max(0.0, seconds)
