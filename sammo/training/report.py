"""What training shows: log lines, a progress bar with the time left, TensorBoard."""

from __future__ import annotations

import logging
import math
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from sammo.data.dataset import WaitTimer
from sammo.training.config import TrainConfig
from sammo.training.validation import Validation, named

RESET_INTERVAL = 200  # batches over which the running loss forgets, as in icefall
LINE_SECONDS = 30.0  # longest silence off a terminal


class _Console(logging.Handler):
    """Log lines on stderr that leave a progress bar below them."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def set_up_logging(directory: Path, name: str, console: bool = True) -> None:
    """Log to stderr and to ``directory``/log-NAME-DATE."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"log-{name}-{datetime.now():%Y-%m-%d-%H-%M-%S}"
    handlers: list[logging.Handler] = [logging.FileHandler(path)]
    if console:
        handlers.append(_Console())
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
        handlers=handlers,
        force=True,
    )


def duration(seconds: float) -> timedelta:
    """Printed as "1:02:05"."""
    return timedelta(seconds=round(seconds))


class Step(dict):
    """Numbers of one step over all processes: loss and its parts (LOSSES; sums), frames, audio_seconds, ..."""


class RunReport:
    """Collects steps and shows them; silent in all processes but the first.

    Args:
      batch: batches trained before this run.
      enabled: whether this process reports.
    """

    def __init__(self, config: TrainConfig, batch: int, enabled: bool) -> None:
        self.config = config
        self.enabled = enabled
        self.writer: Any = None
        if enabled and config.tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # takes a second

            # What a killed run logged after its last checkpoint is hidden: it comes again.
            self.writer = SummaryWriter(str(config.exp_dir / "tensorboard"), purge_step=batch + 1)
        self._losses = config.losses_in_use()
        self._totals: dict[str, float] = {}
        self._started = self._interval_start = self._last_line = time.monotonic()
        self._audio = 0.0
        self._steps = 0
        self._bar: tqdm | None = None

    def begin_epoch(self, epoch: int, done: int, batches: int) -> None:
        """Called before the first step, when ``done`` of about ``batches`` batches are trained already."""
        if not self.enabled:
            return
        if sys.stderr.isatty():
            desc = f"epoch {epoch}/{self.config.num_epochs}"
            self._bar = tqdm(total=batches, initial=done, desc=desc, file=sys.stderr, dynamic_ncols=True)

    def step(self, epoch: int, done: int, batches: int, batch: int, step: Step, seconds_left: float) -> None:
        """Adds a step. ``done`` of about ``batches`` in this epoch, ``batch`` in all."""
        if not self.enabled:
            return
        self._steps += 1
        self._audio += step["audio_seconds"]
        # A batch that was skipped, whose loss may be infinite, is no part of the mean.
        for name in ("loss", *self._losses, "frames") if math.isfinite(step["loss"]) else ():
            self._totals[name] = self._totals.get(name, 0.0) * (1 - 1 / RESET_INTERVAL) + step[name]
        if self._bar is not None:
            self._bar.total = max(batches, done)
            text = f"loss {self._mean('loss'):.4f}, run {duration(seconds_left)} left"
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(1)
        now = time.monotonic()
        due = done % self.config.log_interval == 0 or batch == 1
        if due or (self._bar is None and now - self._last_line > LINE_SECONDS):
            self._line(epoch, done, batches, batch, step, seconds_left, now)

    def seconds_a_step(self) -> float:
        """Mean of this run, validation and saving counted in."""
        return (time.monotonic() - self._started) / max(1, self._steps)

    def _mean(self, name: str) -> float:
        return self._totals.get(name, math.nan) / max(1.0, self._totals.get("frames", 0.0))

    def _line(
        self, epoch: int, done: int, batches: int, batch: int, step: Step, seconds_left: float, now: float
    ) -> None:
        frames = max(1.0, step["frames"])
        speed = self._audio / 3600 / max(1e-9, (now - self._interval_start) / 60)
        epoch_left = duration(max(0, batches - done) * self.seconds_a_step())
        scale = f", grad scale {step['grad_scale']:g}" if step["grad_scale"] != 1.0 else ""
        values = {name: step[name] / frames for name in ("loss", *self._losses)}
        logging.info(
            f"epoch {epoch}/{self.config.num_epochs}, batch {done}/{batches} ({batch} in all), "
            f"loss {values['loss']:.4f} ({named(values)}), mean {self._mean('loss'):.4f}, lr {step['lr']:.2e}{scale}, "
            f"{speed:.2f} h of audio/min, left: epoch {epoch_left}, run {duration(seconds_left)}"
        )
        self._scalars("train/current_", values, batch)
        self._scalars("train/tot_", {name: self._mean(name) for name in values}, batch)
        others = ("lr", "grad_norm", "grad_scale", "clip_norm", "clip_threshold", "clip_scale", "clipped_share")
        self._scalars("train/", {name: step[name] for name in others if step.get(name) is not None}, batch)
        self._scalars("train/", {"audio_hours_per_minute": speed, "epoch": epoch}, batch)
        self._audio = 0.0
        self._interval_start = self._last_line = now

    def validation(self, epoch: int, batch: int, result: Validation, best: bool) -> None:
        """A validation after ``batch`` batches."""
        if not self.enabled:
            return
        note = " (best so far)" if best else ""
        logging.info(f"epoch {epoch}, validation after {batch} batches: {result.line()}{note}")
        for cut_id, reference, hypothesis in result.samples:
            logging.info(f"  {cut_id}\n    ref {reference}\n    hyp {hypothesis}")
        rates = {metric.lower(): rate for metric, rate in result.rates.items()}
        self._scalars("valid/", {"loss": result.loss, **result.losses, **rates}, batch)
        if self.writer is not None and result.samples:
            text = "\n\n".join(f"**{cut}**\n\nref: {ref}\n\nhyp: {hyp}" for cut, ref, hyp in result.samples)
            self.writer.add_text("valid/samples", text, batch)
        self._last_line = time.monotonic()

    def time_constants(self, batch: int, stacks: dict[int, Tensor]) -> None:
        """How long the recurrent heads of each stack remember, in seconds, to see what training does to it."""
        for stack, seconds in stacks.items():
            values = {"median": float(seconds.median()), "max": float(seconds.max())}
            self._scalars(f"time_constants/stack{stack + 1}_", values, batch)

    def end_epoch(self, epoch: int, batch: int, data: WaitTimer, skipped: int) -> None:
        """``data`` timed the epoch, ``skipped`` counts the batches that could not be trained on."""
        if not self.enabled:
            return
        self.close_bar()
        lost = f", {skipped} batches skipped, see above" if skipped else ""
        logging.info(f"end of epoch {epoch}: {data.report()}{lost}")
        self._scalars("train/", {"data_wait_share": data.share, "skipped_batches": float(skipped)}, batch)
        if self.writer is not None:
            self.writer.flush()

    def close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def close(self) -> None:
        self.close_bar()
        if self.writer is not None:
            self.writer.close()

    def _scalars(self, prefix: str, values: dict[str, float], batch: int) -> None:
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(prefix + name, value, batch)
