"""A program for tests: trains in several processes on data of its own. Writes losses and parameters of each rank.

usage: training_parallel.py DIRECTORY PROCESSES TASK     TASK: curve, die, orphan (waits for a signal)
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch
from training_fixtures import ListData, make_trainer, random_batch

from sammo.errors import run_main
from sammo.training.config import TrainConfig
from sammo.training.distributed import World, launch, lost_connection
from sammo.training.loop import Trainer


def without_randomness(trainer: Trainer) -> Trainer:
    """Dropout, masks and regularizers off: what one process draws for a batch, two would draw differently."""
    trainer.model.eval()
    trainer.model.train = lambda mode=True: trainer.model
    return trainer


def record(trainer: Trainer) -> list[float]:
    """The list to which every step's loss over all processes will be added."""
    losses: list[float] = []
    step = trainer._step

    def recorded(batch):
        result = step(batch)
        losses.append(result[0]["loss"])
        return result

    trainer._step = recorded
    return losses


def data(extra: int = 0) -> ListData:
    return ListData([random_batch(seed, size=6) for seed in range(4)], extra)


def work(directory: Path, task: str) -> int:
    torch.set_num_threads(1)
    world = World.start(TrainConfig(device="cpu"))
    # The last rank has a batch more than the others.
    trainer = without_randomness(make_trainer(directory, data(extra=1), world))
    losses = record(trainer)
    if task == "die" and world.rank == 1:
        step = trainer._step

        def die(batch):
            if trainer.batch == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(batch)

        trainer._step = die
    with trainer.stop:
        try:
            if task == "orphan":
                print(f"rank {world.rank} is {os.getpid()}", flush=True)
                while not world.any(trainer.stop.received is not None):
                    time.sleep(0.05)
                (directory / f"stopped-{world.rank}").touch()
                return trainer.stop.exit_code
            trainer.run()
        except RuntimeError as error:
            raise lost_connection(world, error) or error from error
    result = {"losses": losses, "model": dict(trainer.model.state_dict())}
    torch.save(result, directory / f"rank-{world.rank}.pt")
    world.close()
    return 0


if __name__ == "__main__":
    run_main(lambda: launch(int(sys.argv[2]), 0, work, Path(sys.argv[1]), sys.argv[3]))
