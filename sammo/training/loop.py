"""The training loop."""

from __future__ import annotations

import logging
import math
import random
import time
from itertools import islice
from typing import Any, Iterator

import torch
from torch import Tensor, nn

from sammo.checkpoint import BEST, Checkpoint, TrainingState, batch_path, epoch_path, remove_old, write_checkpoint
from sammo.checkpoint.averaging import AveragedModel
from sammo.data.dataset import WaitTimer
from sammo.data.tokens import Tokenizer
from sammo.errors import UserError
from sammo.optim import Eden, ScaledAdam
from sammo.regularize import load_regularizer_state, regularizer_state, set_batch_count, settle, unsettled
from sammo.training.config import LOSSES, TrainConfig
from sammo.training.distributed import World
from sammo.training.nonfinite import first_overflow, save_batch, watch
from sammo.training.precision import Precision
from sammo.training.randomness import random_state, seed_everything, set_random_state
from sammo.training.report import RunReport, Step
from sammo.training.signals import StopRequest
from sammo.training.validation import validate
from sammo.transducer import ModelConfig, Transducer

SCHEDULE_INTERVAL = 10  # batches between updates of the scheduled regularizers
MAX_SAVED_BATCHES = 5  # of those that an epoch skips


class Trainer:
    """Everything that changes while a model is trained; :meth:`checkpoint` is all of it.

    Args:
      model: on the world's device.
      data: has ``train_dataloader(epoch, sampler_state, rank, world_size)``, whose loader has ``len`` and ``sampler``,
        ``train_seconds(epoch)`` and ``valid_dataloader(rank, world_size)``, like CsjDataModule.
      facts: kept in checkpoints beside the model: "preset", "transcript_mode".
      batch_seconds: audio in a batch of one process at most, to count batches in reference batches.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: Transducer,
        data: Any,
        tokenizer: Tokenizer,
        world: World,
        stop: StopRequest,
        facts: dict[str, str],
        batch_seconds: float,
    ) -> None:
        self.config, self.model, self.data, self.tokenizer = config, model, data, tokenizer
        self.world, self.stop, self.facts = world, stop, facts
        self.adjust = batch_seconds * world.size / config.ref_duration
        self.optimizer = ScaledAdam(
            [{"named_params": list(model.named_parameters())}],
            lr=config.base_lr,
            clipping_scale=config.clipping_scale,
            plain_lr_scale=dict.fromkeys(dynamics(model), config.ssm_lr_scale) if config.ssm_lr_scale else None,
        )
        self.scheduler = Eden(
            self.optimizer, config.lr_batches, config.lr_epochs, config.lr_warmup_batches, config.lr_warmup_start
        )
        self.precision = Precision(config.precision, world.device)
        self.averaged = AveragedModel(model, config.average_period) if world.is_main else None
        self.parallel: nn.Module = model
        self.batch = 0  # trained so far
        self.epoch = 1
        self.epoch_batches = 0  # of them in this epoch
        self.batch_ratio = 1.0  # batches of the last whole epoch over what its loader had estimated
        self.best_valid = math.inf
        self.seconds = 0.0  # trained so far, over all runs
        self.skipped = 0  # in this epoch, for not being finite
        self.sampler_state: dict[str, Any] | None = None
        self._since = time.monotonic()

    # -------------------------------------------------------------------------------- state

    def checkpoint(self, sampler: Any, epoch_done: bool) -> Checkpoint | None:
        """All that a resumed run needs; None in all processes but the first. All of them must call it."""
        own = {"random": random_state(self.world.device), "regularizers": regularizer_state(self.model)}
        ranks = self.world.gather(own)
        if ranks is None:
            return None
        training = TrainingState(
            optimizer=self.optimizer.state_dict(),
            scheduler=self.scheduler.state_dict(),
            scaler=self.precision.scaler.state_dict(),
            sampler=None if epoch_done else sampler.state_dict(),
            random=[rank["random"] for rank in ranks],
            regularizers=[rank["regularizers"] for rank in ranks],
            epoch_batches=self.epoch_batches,
            batch_ratio=self.batch_ratio,
            best_valid=self.best_valid,
            skipped=self.skipped,
            wall_seconds=self.seconds,
            options=self.config.to_dict(),
        )
        return self._weights(epoch_done, training)

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
        """Resumes where ``checkpoint`` was saved. UserError where it belongs to another model or other units."""
        check_same_model(checkpoint, self.model.config, self.tokenizer.fingerprint)
        training = checkpoint.training
        if training is None:
            raise UserError("the checkpoint holds a model and no state of training: it can be decoded, not resumed")
        try:
            self.model.load_state_dict(checkpoint.model)
            if self.averaged is not None:
                self.averaged.load(checkpoint.model_avg)
            self._load_training(training)
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            problem = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise UserError(f"the checkpoint does not fit what train.py keeps in one ({problem})") from error
        self.batch = checkpoint.batch_idx_train
        self.epoch = checkpoint.epoch + checkpoint.epoch_done
        if not checkpoint.epoch_done:
            self.epoch_batches, self.skipped = training.epoch_batches, training.skipped
        if len(training.random) != self.world.size:
            logging.warning(f"the checkpoint is of {len(training.random)} processes: random draws start afresh")
            seed_everything(self._seed())

    def _load_training(self, training: TrainingState) -> None:
        self.optimizer.load_state_dict(training.optimizer)
        self.scheduler.load_state_dict(training.scheduler)
        if self.precision.scaler.is_enabled() and training.scaler:
            self.precision.scaler.load_state_dict(training.scaler)
        self.best_valid, self.batch_ratio = training.best_valid, training.batch_ratio
        self.seconds, self.sampler_state = training.wall_seconds, training.sampler
        if len(training.random) == self.world.size:
            load_regularizer_state(self.model, training.regularizers[self.world.rank])
            set_random_state(training.random[self.world.rank], self.world.device)

    def _lap(self) -> None:
        """Counts the time since the last lap. Only here: what decides on the time budget is what a checkpoint keeps."""
        now = time.monotonic()
        self.seconds, self._since = self.seconds + now - self._since, now

    def finished(self) -> str:
        """Why there is nothing left to do; empty if there is."""
        config = self.config
        if self.epoch > config.num_epochs:
            return f"all {config.num_epochs} epochs are done"
        if config.max_steps and self.batch >= config.max_steps:
            return f"all {config.max_steps} batches of --max-steps are done"
        if config.time_budget_minutes and self.seconds >= 60 * config.time_budget_minutes:
            return f"the {config.time_budget_minutes:g} minutes of --time-budget-minutes are used up"
        return ""

    def _seed(self) -> int:
        # The ranks drop other values than each other; all else that is drawn must not depend on the rank.
        return self.config.seed + self.epoch - 1 + 1000003 * self.world.rank

    # -------------------------------------------------------------------------------- running

    def run(self) -> None:
        """Trains to the end, or until a signal asks to stop; saves in either case."""
        if self.world.size > 1:
            # Without device_ids: it would move the lengths, which are for the CPU.
            self.parallel = nn.parallel.DistributedDataParallel(self.model, find_unused_parameters=True)
        self._since = time.monotonic()
        report = RunReport(self.config, self.batch, self.world.is_main)
        try:
            while not self.world.any(bool(self.finished())) and self._run_epoch(report):
                pass
        finally:
            report.close()

    def _run_epoch(self, report: RunReport) -> bool:
        """One epoch, or what is left of it; False if training was asked to stop."""
        if self.sampler_state is None:
            self.epoch_batches = self.skipped = 0
            seed_everything(self._seed())
        world = self.world
        self.scheduler.step_epoch(self.epoch - 1)
        self._schedule(self.batch - self.batch % SCHEDULE_INTERVAL)
        loader = self.data.train_dataloader(self.epoch, self.sampler_state, world.rank, world.size)
        self.sampler_state = None
        batches = max(1, round(len(loader) * self.batch_ratio))
        seconds = sum(self.data.train_seconds(epoch) for epoch in range(self.epoch + 1, self.config.num_epochs + 1))
        later = batches * seconds / self.data.train_seconds(self.epoch)  # batches of the epochs after this one
        timer = WaitTimer(loader)
        self.parallel.train()
        report.begin_epoch(self.epoch, self.epoch_batches, batches)
        over = stop = False
        for batch in self._agreed(timer):
            step, stop, over = self._step(batch)
            left = self._seconds_left(report, batches, later)
            report.step(self.epoch, self.epoch_batches, batches, self.batch, step, left)
            if self.batch % self.config.valid_interval == 0:
                self._validate(report)
            if stop or over:
                break
            if self.batch % self.config.save_every_n == 0:
                self._save_batch(loader.sampler)
        if stop:
            report.close_bar()
            self._save_batch(loader.sampler)
            return False
        self._validate(report)
        if not over:
            self.batch_ratio = self.epoch_batches / len(loader)
        self._lap()
        # A budget that ends within an epoch leaves an epoch-N.pt, too: one that knows it is not the end.
        checkpoint = self.checkpoint(loader.sampler, epoch_done=not over)
        if checkpoint is not None:
            write_checkpoint(epoch_path(self.config.exp_dir, self.epoch), checkpoint)
        report.end_epoch(self.epoch, self.batch, timer, self.skipped)
        self.epoch += not over
        return True

    def _agreed(self, loader: WaitTimer) -> Iterator[dict[str, Any]]:
        """Batches as long as every process has one: otherwise some would wait for gradients that never come."""
        batches = iter(loader)
        while True:
            batch = next(batches, None)
            if not self.world.all(batch is not None):
                return
            yield batch

    def _seconds_left(self, report: RunReport, batches: int, later: float) -> float:
        config = self.config
        steps = max(0, batches - self.epoch_batches) + later
        if config.max_steps:
            steps = min(steps, config.max_steps - self.batch)
        seconds = steps * report.seconds_a_step()
        if config.time_budget_minutes:
            seconds = min(seconds, 60 * config.time_budget_minutes - self.seconds)
        return max(0.0, seconds)

    def _save_batch(self, sampler: Any) -> None:
        checkpoint = self.checkpoint(sampler, epoch_done=False)
        if checkpoint is not None:
            write_checkpoint(batch_path(self.config.exp_dir, self.batch), checkpoint)
            remove_old(self.config.exp_dir, self.config.keep_last_k)

    def _validate(self, report: RunReport) -> None:
        batches = self.data.valid_dataloader(self.world.rank, self.world.size)
        scales = self.config.loss_scales(self.batch)
        result = validate(self.model, batches, self.tokenizer, self.config, self.world, scales)
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

    def _step(self, batch: dict[str, Any]) -> tuple[Step, bool, bool]:
        """Trains on a batch. Returns its numbers, and whether to stop for a signal or for the end of a budget."""
        if self.batch % SCHEDULE_INTERVAL == 0:
            self._schedule(self.batch)
        self.batch += 1
        self.epoch_batches += 1
        before = random_state(self.world.device)
        try:
            if self.config.inf_check:
                with watch(self.model, at_once=True):
                    sums = self._backward(batch)
            else:
                sums = self._backward(batch)
        except torch.cuda.OutOfMemoryError as error:
            raise UserError(out_of_memory(batch["features"].shape, self.batch)) from error
        if self.precision.scaler.is_enabled():
            self.precision.scaler.unscale_(self.optimizer)
        norms = self.optimizer.measure()
        self._lap()
        flags = torch.tensor([self.stop.received is not None, bool(self.finished())], dtype=torch.float64)
        sums = self.world.sum(torch.cat([sums, flags.to(sums.device, non_blocking=True)]))
        whitens, exceeded = unsettled(self.model)
        (*sums, stop, over), norms, exceeded = _read(sums, norms, exceeded)
        self.optimizer.use_norms(norms)
        settle(whitens, exceeded)
        norm = norms[0]
        step = Step(zip(("loss", *LOSSES, "frames", "audio_seconds"), sums))
        scale = self.precision.scale
        finite = math.isfinite(step["loss"]) and math.isfinite(norm)
        self.scheduler.step_batch(self.batch)
        if finite:
            self.precision.scaler.step(self.optimizer)
        self.precision.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if not finite and not (math.isfinite(step["loss"]) and scale > 1.0):
            self._skip(batch, before, step["loss"], norm)
        self.precision.grow(self.batch)
        if self.averaged is not None:
            self.averaged.update(self.model, self.batch)
        clipping = self.optimizer.clipping_stats()[0]
        step.update(
            lr=max(self.scheduler.get_last_lr()),
            grad_norm=norm,
            grad_scale=scale,
            clip_norm=clipping.norm,
            clip_threshold=clipping.threshold,
            clip_scale=clipping.scale,
            clipped_share=clipping.fraction_clipped,
        )
        return step, stop > 0, over > 0

    def _backward(self, batch: dict[str, Any]) -> Tensor:
        """Gradients of a batch; loss, simple, pruned and CTC loss, frames and seconds of audio, summed, float64."""
        loss, parts = self.loss(self.parallel, batch)
        self.precision.scaler.scale(loss).backward()
        seconds = float(batch["lengths"].sum()) / 100
        numbers = torch.stack([loss.detach(), *parts]).double()
        return torch.cat([numbers, torch.full_like(numbers[:1], seconds)])

    def loss(self, model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, list[Tensor]]:
        """The loss to minimize, and simple, pruned and CTC loss and frames; sums over the batch."""
        config, device = self.config, self.world.device
        chunk, left = self._draw_chunk()
        with self.precision.autocast():
            losses = model(
                batch["features"].to(device, non_blocking=True),
                batch["lengths"],
                batch["tokens"],
                prune_range=config.prune_range,
                am_scale=config.am_scale,
                lm_scale=config.lm_scale,
                chunk_size=chunk,
                left_context_frames=left,
                loss_engine=config.loss_engine,
            )
        parts = [losses.simple.sum(), losses.pruned.sum(), losses.ctc.sum()]
        loss = sum(scale * part for scale, part in zip(config.loss_scales(self.batch), parts))
        return loss, [*(part.detach() for part in parts), losses.frames.sum().to(loss.dtype)]

    def _draw_chunk(self) -> tuple[int, int | None]:
        """Chunk size and left context of this batch: the same in all processes, and after a resume."""
        encoder = self.model.config.encoder
        draw = random.Random(f"{self.config.seed}/{self.batch}")
        chunk, left = draw.choice(encoder.chunk_sizes), draw.choice(encoder.left_context_frames)
        if not encoder.left_context:
            return chunk, None
        return chunk, left if chunk != -1 else -1

    def _skip(self, batch: dict[str, Any], before: dict[str, Any], loss: float, norm: float) -> None:
        """Accounts for a batch that was not finite; UserError if there are too many."""
        self.skipped += 1
        config = self.config
        what = "loss" if not math.isfinite(loss) else "gradient"
        path = config.exp_dir / f"bad-batch-{self.batch}-rank-{self.world.rank}.pt"
        if self.skipped <= MAX_SAVED_BATCHES:
            save_batch(path, batch, batch_idx_train=self.batch, loss=loss, gradient_norm=norm)
        ids = ", ".join(cut.id for cut in batch["cuts"][:3])
        logging.warning(f"batch {self.batch} skipped: its {what} is not finite (cuts {ids}, ...; kept in {path.name})")
        too_many = self.skipped > config.max_nonfinite
        if self.skipped > 1 and not too_many:
            return
        where = self._find_overflow(batch, before)
        logging.warning(f"first value that was not finite: {where}")
        if too_many:
            raise UserError(
                f"{self.skipped} batches of epoch {self.epoch} were not finite, --max-nonfinite allows "
                f"{config.max_nonfinite}; in the last one, {where} was the first ({config.exp_dir}/bad-batch-*.pt hold "
                "batches with their cut ids)"
            )

    def _find_overflow(self, batch: dict[str, Any], before: dict[str, Any]) -> str:
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


def dynamics(model: nn.Module) -> list[str]:
    """Names of the parameters that set how long the recurrent states of ``model`` remember."""
    return [
        f"{name}.{parameter}" for name, module in model.named_modules() for parameter in getattr(module, "dynamics", ())
    ]


def out_of_memory(shape: torch.Size | tuple[int, ...], batch: int) -> str:
    """The one line for a batch that does not fit."""
    count, frames = shape[0], shape[1]
    return (
        f"out of GPU memory at batch {batch} of {count} utterances x {frames / 100:.1f} s: lower --max-duration, "
        "or use --precision bf16"
    )


def check_same_model(checkpoint: Checkpoint, model_config: ModelConfig, fingerprint: str) -> None:
    """UserError naming the first difference between a checkpoint's model and the one asked for."""
    saved, wanted = _flat(checkpoint.model_config), _flat(model_config)
    different = [name for name in wanted if saved[name] != wanted[name]]
    advice = "use another --exp-dir or the options it was trained with"
    if checkpoint.tokenizer != fingerprint:
        raise UserError(
            f"the checkpoint was trained with other output units ({saved['vocab_size']}, here {wanted['vocab_size']}): "
            f"{advice} (--lang)"
        )
    if different:
        name = different[0]
        more = f" and {len(different) - 1} more" if len(different) > 1 else ""
        raise UserError(
            f"the checkpoint is of another model: {name} is {saved[name]} there and {wanted[name]} here{more}; {advice}"
        )


def _flat(config: ModelConfig) -> dict[str, Any]:
    values = config.to_dict()
    return {**values.pop("encoder"), **values}
