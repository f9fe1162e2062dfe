"""Trains encoders on :mod:`sammo.probe.recall` with the real training loop, and measures over what delays they recall.

The same command resumes where it was interrupted, in training or in measuring.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import torch

from sammo.encoder.config import ENCODER_PRESETS
from sammo.errors import UserError
from sammo.files import atomic_write, parse_json
from sammo.lock import locked
from sammo.model_options import ModelOptions
from sammo.options import check_chunking
from sammo.probe.config import ProbeConfig
from sammo.probe.measure import Recall, conditions, reach, recall
from sammo.probe.recall import START_DELAY, Delays, RecallData, RecallTask
from sammo.progress import progress
from sammo.signals import StopRequest
from sammo.training.config import TrainConfig
from sammo.training.distributed import World
from sammo.training.loop import Trainer
from sammo.training.report import set_up_logging
from sammo.training.run import train

# Of audio in a batch, by which --ref-duration is divided. Only their ratio matters.
BATCH_SECONDS = 20.0


def run_probe(probe: ProbeConfig, model: ModelOptions, training: TrainConfig) -> int:
    """Trains and measures each encoder, prints the table, writes probe.md, probe.json and probe.png.

    Returns:
      0, or 130 after Ctrl-C.
    """
    for name in probe.encoder:
        if name not in ENCODER_PRESETS:
            raise UserError(f"unknown encoder {name!r}: choose {', '.join(ENCODER_PRESETS)}")
    if -1 in (*(model.chunk_size or ()), *(model.left_context_frames or ())):
        raise UserError("the probe measures chunks and left contexts that have an end, and -1 has none")
    if training.num_threads > 0:
        torch.set_num_threads(training.num_threads)
    task = RecallTask()
    cells: list[Recall] = []
    reaches: dict[str, float] = {}
    for name in probe.encoder:
        directory = probe.out_dir / name
        with locked(directory), StopRequest() as stop:
            set_up_logging(directory / "log", "probe")
            trainer = train_encoder(probe, dataclasses.replace(model, encoder=name), training, task, stop)
            if stop.received is not None:
                logging.info(f"stopped by {stop.received.name}; the same command resumes")
                return stop.exit_code
        found = measure(probe, trainer, task, directory / "recall.json")
        config = trainer.model.config.encoder
        for cell in found:
            reaches[cell.line] = reach(config, cell.chunk_size, cell.left_context_frames)
        cells += found
    from sammo.probe.report import write  # matplotlib

    facts = {"preset": model.preset, "train_delays": probe.train_delays, "seed": training.seed}
    print(write(cells, reaches, task.chance, facts, probe.out_dir))
    print(f"figure: {probe.out_dir / 'probe.png'}")
    return 0


def train_encoder(
    probe: ProbeConfig, model: ModelOptions, training: TrainConfig, task: RecallTask, stop: StopRequest
) -> Trainer:
    """Trains as the options say, from the last checkpoint if there is one."""
    low, high = probe.train_delays
    delays = Delays(low, high, min(high, max(low, START_DELAY)), round(probe.growth * probe.steps))
    # What a corpus is asked beyond what training needs, these two cannot answer.
    tokenizer: Any = task
    data: Any = RecallData(task, probe.steps, probe.sequences, delays, probe.delays, training.seed)
    directory = probe.out_dir / model.encoder
    config = dataclasses.replace(training, exp_dir=directory, num_epochs=1, max_steps=probe.steps, oom_scan="false")
    model_config = model.to_config(task.vocab_size, task.blank_id, config.ctc_loss_scale > 0)
    facts = {"preset": model.preset, "transcript_mode": task.fingerprint}
    return train(config, model_config, data, tokenizer, World.start(config), stop, facts, BATCH_SECONDS)


def measure(probe: ProbeConfig, trainer: Trainer, task: RecallTask, path: Path) -> list[Recall]:
    """A cell for each delay and way to decode; those of the same weights that ``path`` holds are not measured again."""
    model, steps, num = trainer.model, trainer.batch, probe.test_sequences
    config = model.config.encoder
    for chunk in config.chunk_sizes:
        for left in config.left_context_frames if config.left_context else (0,):
            check_chunking(chunk, left)
            model.encoder.check_chunk_size(chunk, left)
    wanted = {
        Recall(config.name, *condition, delay, num, steps): condition
        for condition in conditions(model, probe.reset)
        for delay in probe.delays
    }
    found: dict[Recall, Recall] = {}
    if path.is_file():
        known = [Recall(**row) for row in parse_json(path.read_text(encoding="utf-8"))]
        found = {cell.question: cell for cell in known if cell.question in wanted}
    missing = [cell for cell in wanted if cell not in found]
    delays = sorted({cell.delay for cell in missing})
    for delay in progress(delays, total=len(delays), desc=f"measuring {config.name}"):
        cells = recall(model, task, [cell for cell in missing if cell.delay == delay])
        found |= {cell.question: cell for cell in cells}
        with atomic_write(path) as file:
            json.dump([cell._asdict() for cell in found.values()], file)
    return [found[cell] for cell in wanted]
