"""A model that trains in milliseconds, data without files, and train.py as a process."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Iterator

import torch

from sammo.checkpoint import Checkpoint
from sammo.training.config import TrainConfig
from sammo.training.distributed import World
from sammo.training.loop import Trainer
from sammo.training.signals import StopRequest
from sammo.transducer import ModelConfig, Transducer, model_config

ROOT = Path(__file__).parents[1]
SMALL = {
    "downsampling": (1, 2),
    "encoder_dim": (32, 32),
    "num_layers": (1, 1),
    "unmasked_dim": (32, 32),
    "feedforward_dim": (32, 32),
    "num_heads": (2, 2),
    "conv_kernel": (7, 7),
    "frontend_channels": (2, 4, 4),
    "mamba_head_dim": 8,
    "predictor_dim": 32,
    "joiner_dim": 32,
}
# The same as options of train.py.
SMALL_OPTIONS = (
    "--preset tiny --downsampling-factor 1,2 --encoder-dim 32,32 --num-encoder-layers 1,1 --encoder-unmasked-dim 32,32 "
    "--feedforward-dim 32,32 --num-heads 2,2 --cnn-module-kernel 7,7 --frontend-channels 2,4,4 --mamba-head-dim 8 "
    "--decoder-dim 32 --joiner-dim 32"
).split()


def small_config(name: str = "sammo", vocab_size: int = 12, **overrides: Any) -> ModelConfig:
    return model_config(name, "tiny", vocab_size, **{**SMALL, **overrides})


class Letters:
    """A tokenizer of ``size`` letters."""

    blank_id = 0

    def __init__(self, size: int = 12, fingerprint: str = "letters"):
        self.vocab_size = size
        self.fingerprint = fingerprint

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(ord("a") + index) for index in ids)


def random_batch(seed: int, size: int = 4, frames: int = 90) -> dict[str, Any]:
    """Utterances of random features that say something about their random symbols."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(frames // 2, frames + 1, (size,), generator=generator).sort(descending=True).values
    tokens = [torch.randint(1, 12, (int(length) // 20,), generator=generator).tolist() for length in lengths]
    features = torch.randn(size, int(lengths[0]), 80, generator=generator)
    for row, symbols in zip(features, tokens):
        for place, symbol in enumerate(symbols):
            row[place * 20 : place * 20 + 20, symbol * 6 : symbol * 6 + 6] += 3.0
    return make_batch(features, lengths, tokens, f"cut-{seed}")


def make_batch(features: torch.Tensor, lengths: torch.Tensor, tokens: list[list[int]], name: str) -> dict[str, Any]:
    return {
        "features": features,
        "lengths": lengths,
        "tokens": tokens,
        "texts": [Letters().decode(symbols) for symbols in tokens],
        "cuts": [SimpleNamespace(id=f"{name}-{index}") for index in range(len(tokens))],
    }


class ListSampler:
    def __init__(self, batches: int = 0):
        self.batches = batches

    def state_dict(self) -> dict[str, int]:
        return {"batches": self.batches}


class ListLoader:
    """Batches of a list, after those that the sampler has seen."""

    def __init__(self, batches: list[dict[str, Any]], start: int = 0):
        self.list = batches
        self.sampler = ListSampler(start)

    def __len__(self) -> int:
        return len(self.list)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self.list[self.sampler.batches :]:
            self.sampler.batches += 1
            yield batch


class ListData:
    """Every rank trains on the rows of each batch that are its own; ``extra`` gives the last rank more batches."""

    def __init__(self, batches: list[dict[str, Any]], extra: int = 0):
        self.batches = batches
        self.extra = extra

    def train_dataloader(self, epoch: int, state: dict | None = None, rank: int = 0, world_size: int = 1) -> ListLoader:
        batches = [self._share(batch, rank, world_size) for batch in self.batches]
        if rank == world_size - 1:
            batches += batches[:1] * self.extra
        return ListLoader(batches, state["batches"] if state else 0)

    def audio_seconds(self, epoch: int) -> float:
        return 1.0

    def valid_dataloader(self, rank: int = 0, world_size: int = 1) -> list[dict[str, Any]]:
        return [self._share(self.batches[0], rank, world_size)]

    @staticmethod
    def _share(batch: dict[str, Any], rank: int, world_size: int) -> dict[str, Any]:
        rows = slice(rank, None, world_size)
        return {name: value[rows] for name, value in batch.items()}


def make_trainer(
    exp_dir: Path, data: ListData, world: World | None = None, model: ModelConfig | None = None, **options: Any
) -> Trainer:
    """A trainer on the CPU. ``options`` are those of TrainConfig."""
    defaults = {"num_epochs": 2, "tensorboard": False, "average_period": 2, "valid_interval": 1000, "device": "cpu"}
    config = TrainConfig(exp_dir=exp_dir, **{**defaults, **options})
    exp_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    facts = {"preset": "tiny", "transcript_mode": "fluent"}
    return Trainer(
        config, Transducer(model or small_config()), data, Letters(), world or World(), StopRequest(), facts, 600.0
    )


def checkpoint_of(model: Transducer, tokenizer: str, epoch: int = 1, **others: Any) -> Checkpoint:
    """A model as if training had come to ``epoch`` with it; ``tokenizer`` is the fingerprint of its units."""
    weights = dict(model.state_dict())
    facts = {"preset": "tiny", "transcript_mode": "fluent", "epoch_done": True, "batch_idx_train": 10 * epoch, **others}
    facts |= {"model_config": model.config, "tokenizer": tokenizer, "epoch": epoch, "average_period": 5}
    return Checkpoint(model=weights, model_avg=weights, **facts)


def start(script: str | Path, *options: Any) -> subprocess.Popen:
    """Runs a script of the repository; its output is one stream of text."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        environment.pop(name, None)
    command = [sys.executable, str(ROOT / script), *map(str, options)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def differences(left: Any, right: Any, path: str = "") -> list[str]:
    """Where two checkpoints differ; tensors are compared bit by bit."""
    if isinstance(left, torch.Tensor):
        same = left.dtype == right.dtype and torch.equal(left, right)
        return [] if same else [path]
    if dataclasses.is_dataclass(left) and type(left) is type(right):
        return differences(vars(left), vars(right), path)
    if isinstance(left, dict):
        if left.keys() != right.keys():
            return [f"{path}: {sorted(map(str, left.keys() ^ right.keys()))}"]
        return [line for key in left for line in differences(left[key], right[key], f"{path}/{key}")]
    if isinstance(left, (list, tuple)):
        if len(left) != len(right):
            return [f"{path}: lengths {len(left)} and {len(right)}"]
        return [line for i, pair in enumerate(zip(left, right)) for line in differences(*pair, f"{path}/{i}")]
    return [] if left == right else [f"{path}: {left} and {right}"]
