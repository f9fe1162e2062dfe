"""Trying the largest batches before training starts, so that memory does not run out hours later."""

from __future__ import annotations

import logging
from typing import Iterator

import numpy as np
import torch

from sammo.data.concatenation import LongForm
from sammo.data.dataset import Batch
from sammo.data.frames import num_frames
from sammo.errors import UserError
from sammo.geometry import output_frames
from sammo.regularize import load_regularizer_state, regularizer_state, set_batch_count
from sammo.training.distributed import out_of_memory
from sammo.training.loop import Trainer, no_memory

SYMBOLS_A_SECOND = 12.0  # fast Japanese speech in characters


def largest_batches(
    durations: np.ndarray,
    max_duration: float,
    vocab_size: int,
    long_form: LongForm,
) -> Iterator[Batch]:
    """Random batches as large as those of cuts of ``durations`` (seconds): the longest, the shortest, some between.

    Silence before cuts and between them comes on top of ``max_duration``.
    """
    generator = torch.Generator().manual_seed(0)
    for seconds in sorted({float(np.quantile(durations, share)) for share in (0.0, 0.5, 0.99, 1.0)}, reverse=True):
        count = max(1, int(max_duration / seconds))
        frames = max(9, num_frames(seconds + long_form.leading_silence))
        symbols = max(1, min(output_frames(frames), round(SYMBOLS_A_SECOND * seconds)))
        if long_form.concatenation is not None:
            groups = long_form.concatenation.groups([frames] * count)
            count, together = len(groups), len(groups[0])
            frames = together * frames + (together - 1) * num_frames(long_form.concatenation.gap)
            symbols *= together
        yield {
            "features": torch.randn(count, frames, 80, generator=generator),
            "lengths": torch.full((count,), frames),
            "tokens": torch.randint(1, vocab_size, (count, symbols), generator=generator),
            "texts": [""] * count,
            "cut_ids": ["none"] * count,
        }


def try_largest_batches(
    trainer: Trainer,
    durations: np.ndarray,
    max_duration: float,
    long_form: LongForm,
) -> None:
    """Runs forward and backward, without a step, beside the optimizer's state. UserError where a batch does not fit.

    The regularizers are at their schedules' start, where most of them act, and a chunk is the whole utterance, which
    attention takes the most memory for. They are left as they were.
    """
    model = trainer.model
    model.train()
    trainer.optimization.optimizer.clipping_stats()  # makes the optimizer's state
    set_batch_count(model, 0)
    regularizers = regularizer_state(model)
    vocab_size = model.config.vocab_size
    try:
        _run_largest(trainer, largest_batches(durations, max_duration, vocab_size, long_form))
    finally:
        load_regularizer_state(model, regularizers)


def _run_largest(trainer: Trainer, batches: Iterator[Batch]) -> None:
    model = trainer.model
    for batch in batches:
        shape = batch["features"].shape
        try:
            loss, _ = trainer.loss(model, batch, chunk=(-1, -1))
            trainer.optimization.backward(loss)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            raise UserError("tried before training: " + no_memory(shape)) from error
        finally:
            model.zero_grad(set_to_none=True)
    if trainer.world.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(trainer.world.device) / 2**30
        logging.info(f"the largest batches fit: {peak:.1f} GiB of GPU memory at most")
        torch.cuda.reset_peak_memory_stats(trainer.world.device)
        torch.cuda.empty_cache()
