"""The training loop."""

from __future__ import annotations

import logging
import math
from contextlib import nullcontext
from itertools import islice
from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor

from sammo.checkpoint import (
    BEST,
    Checkpoint,
    TrainingState,
    batch_path,
    check_same_model,
    epoch_path,
    remove_old,
    write_checkpoint,
)
from sammo.checkpoint.averaging import AveragedModel
from sammo.data.dataset import Batch, WaitTimer
from sammo.data.tokens import Tokenizer
from sammo.errors import DAMAGE, UserError
from sammo.regularize import load_regularizer_state, regularizer_state, set_batch_count, settle, unsettled
from sammo.signals import StopRequest
from sammo.training.budget import Budget
from sammo.training.config import LOSSES, TrainConfig
from sammo.training.data import Data
from sammo.training.distributed import World, out_of_memory
from sammo.training.guard import Guard, first_overflow, watch
from sammo.training.optimization import Optimization
from sammo.training.parallel import Parallel
from sammo.training.randomness import draw_chunk, random_state, seed_everything, set_random_state
from sammo.training.report import RunReport, Step
from sammo.training.resuming import check_options
from sammo.training.validation import validate
from sammo.transducer import Transducer, TransducerLoss

SCHEDULE_INTERVAL = 10  # batches between updates of the scheduled regularizers


class StepResult(NamedTuple):
    """What :meth:`Trainer._step` returns."""

    step: Step
    stop: bool  # a signal asked some process to stop
    over: bool  # the budget is used up
    following: Batch | None  # the next batch; None where a process has none


class Trainer:
    """A training in progress; :meth:`checkpoint` has all of its state.

    Args:
      model: on the world's device.
      facts: kept in checkpoints beside the model: "preset", "transcript_mode".
      batch_seconds: most audio in a batch of one process; converts batches into reference batches.
      data_options: kept in checkpoints beside those of ``config``, and compared with them by a run that resumes.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: Transducer,
        data: Data,
        tokenizer: Tokenizer,
        world: World,
        stop: StopRequest,
        facts: dict[str, str],
        batch_seconds: float,
        data_options: dict[str, Any] | None = None,
    ) -> None:
        self.options = {**config.to_dict(), **(data_options or {})}
        self.config, self.model, self.data, self.tokenizer = config, model, data, tokenizer
        self.world, self.stop, self.facts = world, stop, facts
        self.adjust = batch_seconds * world.size / config.ref_duration
        self.optimization = Optimization(model, config, world.device)
        self.precision = self.optimization.precision
        self.averaged = AveragedModel(model, config.average_period) if world.is_main else None
        self.budget = Budget(config)
        self.guard = Guard(config, world.rank)
        self.parallel = Parallel(model, world)
        self.batch = 0  # trained so far
        self.epoch = 1
        self.epoch_batches = 0  # of them in this epoch
        self.batch_ratio = 1.0  # batches of the last whole epoch over what its loader had estimated
        self.best_valid = math.inf
        self.sampler_state: dict[str, Any] | None = None

    # -------------------------------------------------------------------------------- state

    def checkpoint(self, place: dict[str, Any] | None) -> Checkpoint | None:
        """All that a resumed run needs; None in all processes but the first. All of them must call it.

        place: the sampler's state behind the last batch trained; None: the epoch is done.
        """
        own = {"random": random_state(self.world.device), "regularizers": regularizer_state(self.model)}
        ranks = self.world.gather(own)
        if ranks is None:
            return None
        training = TrainingState(
            **self.optimization.state(),
            sampler=place,
            random=[rank["random"] for rank in ranks],
            regularizers=[rank["regularizers"] for rank in ranks],
            epoch_batches=self.epoch_batches,
            batch_ratio=self.batch_ratio,
            best_valid=self.best_valid,
            skipped=self.guard.skipped,
            wall_seconds=self.budget.wall_seconds,
            options=self.options,
        )
        return self._weights(place is None, training)

    def _weights(self, epoch_done: bool = False, training: TrainingState | None = None) -> Checkpoint:
        """The model and its running average, with ``training`` if given."""
        assert self.averaged is not None
        return Checkpoint(
            **self.facts,
            model_config=self.model.config,
            tokenizer=self.tokenizer.fingerprint,
            model=dict(self.model.state_dict()),
            model_avg=self.averaged.state,
            average_period=self.averaged.period,
            epoch=self.epoch,
            epoch_done=epoch_done,
            batch_idx_train=self.batch,
            training=training,
        )

    def load(self, checkpoint: Checkpoint) -> None:
        """Resumes where ``checkpoint`` was saved. UserError where it is of another model, other units or options."""
        check_same_model(checkpoint, self.model.config, self.tokenizer.fingerprint)
        training = checkpoint.training
        if training is None:
            problem = "the checkpoint holds a model and no state of training: it can be decoded, not resumed"
            raise UserError(f"{problem}; --init-from begins a new training with its weights")
        check_options(training.options, self.options, self.config.may_change)
        try:
            self._load_state(checkpoint, training)
        except DAMAGE as error:
            problem = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise UserError(f"the checkpoint does not fit what train.py keeps in one ({problem})") from error
        if len(training.random) != self.world.size:
            logging.warning(
                f"the checkpoint is of {len(training.random)} processes, these are {self.world.size}: training goes on "
                f"after its {self.batch} batches, approximately: random draws start afresh, schedules over reference "
                "batches count all batches as if they were of these processes, and the rest of the epoch is as long as "
                "it was, of other cuts: some come twice, some not at all"
            )
            seed_everything(self._seed())

    def _load_state(self, checkpoint: Checkpoint, training: TrainingState) -> None:
        self.model.load_state_dict(checkpoint.model)
        if self.averaged is not None:
            self.averaged.load(checkpoint.model_avg)
        self.optimization.load(training.optimizer, training.scheduler, training.scaler)
        self.batch, self.epoch = checkpoint.batch_idx_train, checkpoint.epoch + checkpoint.epoch_done
        self.best_valid, self.batch_ratio = training.best_valid, training.batch_ratio
        self.budget.wall_seconds, self.sampler_state = training.wall_seconds, training.sampler
        if not checkpoint.epoch_done:
            self.epoch_batches, self.guard.skipped = training.epoch_batches, training.skipped
        load_regularizer_state(self.model, training.regularizers[self.world.rank % len(training.regularizers)])
        if len(training.random) == self.world.size:
            set_random_state(training.random[self.world.rank], self.world.device)

    def reason_to_stop(self) -> str:
        """Why there is nothing left to do; empty if there is."""
        return self.budget.reason_to_stop(self.epoch, self.batch)

    def _seed(self) -> int:
        # The ranks drop other values than each other; all else that is drawn must not depend on the rank.
        return self.config.seed + self.epoch - 1 + 1000003 * self.world.rank

    # -------------------------------------------------------------------------------- running

    def run(self) -> None:
        """Trains to the end, or until a signal asks to stop; saves in either case."""
        self.budget.start()
        report = RunReport(self.config, self.batch, self.world.is_main)
        try:
            while not self.world.any(bool(self.reason_to_stop())) and self._run_epoch(report):
                pass
        finally:
            report.close()

    def _run_epoch(self, report: RunReport) -> bool:
        """One epoch, or what is left of it; False if training was asked to stop."""
        if self.sampler_state is None:
            self.guard.skipped = 0
            seed_everything(self._seed())
        world = self.world
        self.optimization.scheduler.step_epoch(self.epoch - 1)
        self._schedule(self.batch - self.batch % SCHEDULE_INTERVAL)
        loader = self.data.train_dataloader(self.epoch, self.sampler_state, world.rank, world.size)
        self.sampler_state = None
        self.epoch_batches = loader.sampler.batches
        batches = max(1, round(len(loader) * self.batch_ratio))
        # Batches of the epochs after this one.
        later = batches * self._audio_later() / self.data.audio_seconds(self.epoch)
        timer = WaitTimer(loader)
        self.model.train()
        report.begin_epoch(self.epoch, self.epoch_batches, batches)
        over = stop = False
        coming = iter(timer)
        batch = next(coming, None)
        batch = batch if world.all(batch is not None) else None
        place = loader.sampler.state_dict()
        while batch is not None:
            place = loader.sampler.state_dict()  # now: the step fetches the next batch
            step, stop, over, batch = self._step(batch, lambda: next(coming, None))
            batches_left = max(0, batches - self.epoch_batches) + later
            left = self.budget.seconds_left(batches_left, self.batch, report.seconds_a_step())
            report.step(self.epoch, self.epoch_batches, batches, self.batch, step, left)
            if self.batch % self.config.valid_interval == 0:
                self._validate(report)
            if stop or over:
                break
            if self.batch % self.config.save_every_n == 0:
                self._save_batch(place)
        if stop:
            report.close_bar()
            self._save_batch(place)
            return False
        self._validate(report)
        if not over:
            self.batch_ratio = self.epoch_batches / len(loader)
        self.budget.lap()
        # A budget that ends within an epoch leaves an epoch-N.pt, too: one that knows it is not the end.
        checkpoint = self.checkpoint(place if over else None)
        if checkpoint is not None:
            write_checkpoint(epoch_path(self.config.exp_dir, self.epoch), checkpoint)
        report.end_epoch(self.epoch, self.batch, timer, self.guard.skipped)
        self.epoch += not over
        return True

    def _audio_later(self) -> float:
        """Seconds of audio in the epochs after this one."""
        return sum(self.data.audio_seconds(epoch) for epoch in range(self.epoch + 1, self.config.num_epochs + 1))

    def _save_batch(self, place: dict[str, Any]) -> None:
        checkpoint = self.checkpoint(place)
        if checkpoint is not None:
            write_checkpoint(batch_path(self.config.exp_dir, self.batch), checkpoint)
            remove_old(self.config.exp_dir, self.config.keep_last_k)

    def _validate(self, report: RunReport) -> None:
        batches = self.data.valid_dataloader(self.world.rank, self.world.size)
        scales = self.config.loss_scales(self.batch)
        result = validate(self.model, batches, self.tokenizer, self.config, self.world, scales, self.data.metric)
        best = result.loss < self.best_valid
        if best:
            self.best_valid = result.loss
            if self.world.is_main:
                write_checkpoint(self.config.exp_dir / BEST, self._weights())
        report.validation(self.epoch, self.batch, result, best)
        report.time_constants(self.batch, self.model.encoder.time_constants())

    # -------------------------------------------------------------------------------- one step

    def _schedule(self, batch: int) -> None:
        set_batch_count(self.model, batch * self.adjust)

    def _step(self, batch: Batch, fetch: Callable[[], Batch | None] = lambda: None) -> StepResult:
        """Trains on a batch. While a GPU computes, ``fetch`` gets the next one, unless this is the last."""
        if self.batch % SCHEDULE_INTERVAL == 0:
            self._schedule(self.batch)
        self.batch += 1
        self.epoch_batches += 1
        before = random_state(self.world.device)
        sums = self._backward(batch)
        starved = sums is None
        if sums is None:
            sums = self._give_up()
        norms = self.optimization.measure()
        self.budget.lap()
        ends = [self.stop.received is not None, bool(self.reason_to_stop())]
        following = None if any(ends) else fetch()
        step, (stop, over, at_end, lacking) = self._agree(sums, norms, [*ends, following is None, starved])
        scale = step["grad_scale"] = self.precision.scale
        finite_loss = math.isfinite(step["loss"])
        finite = finite_loss and math.isfinite(step["grad_norm"])
        self.optimization.step(self.batch, finite)
        if lacking:
            self.parallel.renew()
            why = no_memory(batch["features"].shape) if starved else "another process is out of GPU memory"
            self.guard.skip(batch, self.batch, self.epoch, why, keep=starved)
        # A scaled gradient may overflow where the loss does not: the scaler has made its scale smaller.
        elif not finite and not (finite_loss and scale > 1.0):
            why = f"its {'gradient' if finite_loss else 'loss'} is not finite"
            self.guard.skip(batch, self.batch, self.epoch, why, find=lambda: self._find_overflow(batch, before))
        self.precision.grow(self.batch)
        if self.averaged is not None:
            self.averaged.update(self.model, self.batch)
        step.update(self.optimization.numbers())
        return StepResult(step, stop, over, None if at_end else following)

    def _backward(self, batch: Batch) -> Tensor | None:
        """Gradients of a batch; loss, simple, pruned, CTC loss, frames, seconds of audio of all of it, (6,) float64.

        None where the GPU's memory does not suffice; nothing of the batch is kept then.
        """
        try:
            with watch(self.model, at_once=True) if self.config.inf_check else nullcontext():
                loss, parts = self.loss(self.parallel, batch)
                self.optimization.backward(loss)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            return None
        seconds = float(batch["lengths"].sum()) / 100
        numbers = torch.stack([loss.detach(), *parts]).double()
        return torch.cat([numbers, torch.full_like(numbers[:1], seconds)])

    def _give_up(self) -> Tensor:
        """What :meth:`_backward` could not: the numbers of a batch whose gradients are NaN."""
        if self.world.device.type == "cuda":
            torch.cuda.empty_cache()
        self.parallel.give_up()
        numbers = torch.full((len(LOSSES) + 3,), math.nan, dtype=torch.float64)
        numbers[-2:] = 0.0  # frames, seconds
        return numbers.to(self.world.device)

    def _agree(self, sums: Tensor, norms: Tensor, flags: list[bool]) -> tuple[Step, list[bool]]:
        """``sums`` over all processes, with the norm of the gradients; which ``flags`` any of them has set."""
        asked = torch.tensor(flags, dtype=sums.dtype).to(sums.device, non_blocking=True)
        sums = self.world.sum(torch.cat([sums, asked]))
        whitens, exceeded = unsettled(self.model)
        numbers, found_norms, found_exceeded = _read(sums, norms, exceeded)
        self.optimization.optimizer.use_norms(found_norms)
        settle(whitens, found_exceeded)
        step = Step(zip(("loss", *LOSSES, "frames", "audio_seconds"), numbers))
        step["grad_norm"] = found_norms[0]
        return step, [number > 0 for number in numbers[-len(flags) :]]

    def loss(
        self, model: Callable[..., TransducerLoss], batch: Batch, chunk: tuple[int, int | None] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """The loss to minimize, and simple, pruned and CTC loss and frames; sums over the batch.

        chunk: its size and the left context; None: drawn.
        """
        config, device = self.config, self.world.device
        size, left = chunk or draw_chunk(self.model.config.encoder, config.seed, self.batch)
        with self.precision.autocast():
            losses = model(
                batch["features"].to(device, non_blocking=True),
                batch["lengths"],
                batch["tokens"],
                prune_range=config.prune_range,
                am_scale=config.am_scale,
                lm_scale=config.lm_scale,
                chunk_size=size,
                left_context_frames=left,
                loss_engine=config.loss_engine,
            )
        parts = [losses.simple.sum(), losses.pruned.sum(), losses.ctc.sum()]
        simple, pruned, ctc = config.loss_scales(self.batch)
        loss = simple * parts[0] + pruned * parts[1] + ctc * parts[2]
        return loss, [*(part.detach() for part in parts), losses.frames.sum().to(loss.dtype)]

    def _find_overflow(self, batch: Batch, before: dict[str, Any]) -> str:
        """Repeats the batch with the draws it had, and leaves no trace of that."""
        now, regularizers = random_state(self.world.device), regularizer_state(self.model)
        set_random_state(before, self.world.device)
        scale = self.precision.scale
        try:
            return first_overflow(self.model, batch, lambda: self.loss(self.model, batch)[0] * scale)
        finally:
            set_random_state(now, self.world.device)
            load_regularizer_state(self.model, regularizers)


def _read(*tensors: Tensor | None) -> list[list[float]]:
    """The values of vectors. This is the only place where a step waits for a GPU."""
    sizes = [0 if tensor is None else len(tensor) for tensor in tensors]
    numbers = iter(torch.cat([tensor.double() for tensor in tensors if tensor is not None]).tolist())
    return [list(islice(numbers, size)) for size in sizes]


def no_memory(shape: torch.Size | tuple[int, ...]) -> str:
    """Why a batch of features of this shape cannot be trained on, and what to do."""
    count, frames = shape[0], shape[1]
    return (
        f"{count} utterances x {frames / 100:.1f} s are too much for the GPU's memory: lower --max-duration, "
        "or use --precision bf16"
    )
