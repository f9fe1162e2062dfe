"""What train.py does: from options to a trained model."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from contextlib import nullcontext
from itertools import islice
from typing import Any

import torch

from sammo.checkpoint import (
    Checkpoint,
    batch_path,
    check_same_model,
    epoch_path,
    list_checkpoints,
    newest_checkpoint,
    read_checkpoint,
    remove_unfinished,
)
from sammo.corpora import find_corpus
from sammo.data.config import DataConfig
from sammo.data.datamodule import CsjDataModule
from sammo.data.tokens import Tokenizer, find_lang, load_tokenizer
from sammo.device import gpu_problem
from sammo.errors import UserError
from sammo.lock import locked
from sammo.model_options import ModelOptions
from sammo.signals import StopRequest
from sammo.training.config import TrainConfig
from sammo.training.data import Data
from sammo.training.diagnostics import diagnose
from sammo.training.distributed import World, launch, machine_failure, started_by_launcher
from sammo.training.finetuning import freeze, init_from
from sammo.training.largest_batches import try_largest_batches
from sammo.training.loop import Trainer
from sammo.training.randomness import random_state, seed_everything, set_random_state
from sammo.training.report import set_up_logging
from sammo.transducer import LOSS_ENGINES, ModelConfig, Transducer

DIAGNOSED_BATCHES = 5


def run(model_options: ModelOptions, config: TrainConfig, data_config: DataConfig) -> int:
    """Trains as the options say; 0, or 130 after Ctrl-C."""
    if config.world_size > 1 and not started_by_launcher():
        return launch(config.world_size, config.master_port, run, model_options, config, data_config)
    if config.num_threads > 0:
        torch.set_num_threads(config.num_threads)
    first = os.environ.get("RANK", "0") == "0"
    with locked(config.exp_dir) if first else nullcontext(), StopRequest() as stop:
        world = World.start(config)
        name = "train" if world.size == 1 else f"train-rank-{world.rank}"
        set_up_logging(config.exp_dir / "log", name, console=world.is_main)
        try:
            corpus = find_corpus(data_config.manifest_dir, data_config.corpus)
            tokenizer = load_tokenizer(find_lang(config.lang, data_config.manifest_dir, corpus))
            use_ctc = config.ctc_loss_scale > 0
            model_config = model_options.to_config(tokenizer.vocab_size, tokenizer.blank_id, use_ctc)
            data = CsjDataModule(data_config, tokenizer)
            facts = {"preset": model_options.preset, "transcript_mode": data.mode}
            seconds, options = data_config.max_duration, data.options()
            train(config, model_config, data, tokenizer, world, stop, facts, seconds, options)
        except RuntimeError as error:
            line = machine_failure(world, error)
            if line is None:
                raise
            raise line from error
        world.close()
        if stop.received is not None:
            logging.info(f"stopped by {stop.received.name}; the same command resumes")
    return stop.exit_code


def train(
    config: TrainConfig,
    model_config: ModelConfig,
    data: Data,
    tokenizer: Tokenizer,
    world: World,
    stop: StopRequest,
    facts: dict[str, str],
    batch_seconds: float,
    data_options: dict[str, Any] | None = None,
) -> Trainer:
    """Trains, from the checkpoint that ``config`` asks for; see :class:`Trainer` for the arguments."""
    start = time.monotonic()
    if world.is_main:
        config.exp_dir.mkdir(parents=True, exist_ok=True)
        remove_unfinished(config.exp_dir)
    checkpoint = _starting_point(config, world)
    if checkpoint is not None:
        check_same_model(checkpoint, model_config, tokenizer.fingerprint)
    seed_everything(config.seed)
    model = Transducer(model_config).to(world.device)
    model.encoder.set_engines(scan=config.scan_engine, conv=config.conv_engine)
    if config.init_from is not None and checkpoint is not None:
        logging.info(f"--init-from {config.init_from} has no effect: this training goes on from its own checkpoint")
    elif config.init_from is not None:
        init_from(model, config.init_from, config.init_avg, tokenizer.fingerprint)
    freeze(model, config.freeze)
    trainer = Trainer(config, model, data, tokenizer, world, stop, facts, batch_seconds, data_options)
    count = sum(parameter.numel() for parameter in model.parameters())
    logging.info(
        f"{model_config.encoder.name} {facts['preset']}: {count:,} parameters, {tokenizer.vocab_size} output units, "
        f"{world.size} x {world.device.type}{_instead(config, world)}, {trainer.precision.name}, "
        f"PyTorch {torch.__version__}, "
        f"{torch.get_num_threads()} threads"
    )
    engines = {"loss": LOSS_ENGINES.resolve(config.loss_engine, world.device), **model.encoder.engines()}
    logging.info("engines: " + ", ".join(f"{operation} {engine}" for operation, engine in engines.items()))
    if checkpoint is not None:
        trainer.load(checkpoint)
        place = f"epoch {trainer.epoch}" + ("" if checkpoint.epoch_done else f" after {trainer.epoch_batches} batches")
        logging.info(f"resuming in {place}, {trainer.batch} batches trained")
        del checkpoint
        if trainer.reason_to_stop():
            logging.info(f"nothing to do: {trainer.reason_to_stop()}")
            return trainer
    elif config.print_diagnostics:
        logging.info("diagnostics of a new model: resume a trained one to see it instead")
    if config.print_diagnostics:
        _print_diagnostics(trainer)
        return trainer
    if config.oom_scan == "true" or (config.oom_scan == "auto" and world.device.type == "cuda"):
        state = random_state(world.device)
        try_largest_batches(trainer, data.train_survey().durations, batch_seconds, data.long_form())
        set_random_state(state, world.device)
    logging.info(f"ready after {time.monotonic() - start:.1f} s")
    trainer.run()
    if stop.received is None:
        logging.info(f"training is done: {trainer.reason_to_stop()}; checkpoints are in {config.exp_dir}")
    return trainer


def _instead(config: TrainConfig, world: World) -> str:
    """Why --device auto is no GPU."""
    fell_back = config.device == "auto" and world.device.type == "cpu"
    return f" ({gpu_problem(world.local_rank)})" if fell_back else ""


def _starting_point(config: TrainConfig, world: World) -> Checkpoint | None:
    """The checkpoint to resume from: the same in all processes."""
    if config.start_epoch == 0 and config.start_batch == 0:
        found = newest_checkpoint(config.exp_dir) if world.is_main else None
        path = world.from_main(None if found is None else str(found[0]))
        if path is None:
            return None
        if world.is_main:
            logging.info(f"found checkpoint {path}")
        return found[1] if found is not None else read_checkpoint(path)
    checkpoint = None
    if config.start_batch:
        checkpoint = read_checkpoint(batch_path(config.exp_dir, config.start_batch))
    elif config.start_epoch > 1:
        checkpoint = read_checkpoint(epoch_path(config.exp_dir, config.start_epoch - 1))
        training = checkpoint.training and dataclasses.replace(checkpoint.training, sampler=None)
        checkpoint = dataclasses.replace(checkpoint, epoch=config.start_epoch - 1, epoch_done=True, training=training)
    _refuse_newer(config, 0 if checkpoint is None else checkpoint.batch_idx_train)
    return checkpoint


def _refuse_newer(config: TrainConfig, batch: int) -> None:
    """A later automatic resume would take the newest checkpoint, which would not be this run's."""
    newer = []
    for file in list_checkpoints(config.exp_dir):
        try:
            if read_checkpoint(file.path, ()).batch_idx_train > batch:
                newer.append(file.path.name)
        except UserError as error:
            logging.warning(str(error))
    if newer:
        option = "--start-batch" if config.start_batch else "--start-epoch"
        raise UserError(
            f"{config.exp_dir} holds {len(newer)} newer checkpoints ({', '.join(newer[:3])}): move them away, or leave "
            f"{option} out to resume from the newest"
        )


def _print_diagnostics(trainer: Trainer) -> None:
    world = trainer.world
    trainer.model.train()
    loader = trainer.data.train_dataloader(trainer.epoch, None, world.rank, world.size)
    with diagnose(trainer.model) as found:
        for batch in islice(loader, DIAGNOSED_BATCHES):
            loss, _ = trainer.loss(trainer.model, batch)
            loss.backward()
    if world.is_main:
        print("\n".join(found.lines()))
