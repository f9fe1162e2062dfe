#!/usr/bin/env python3
"""Losses of the same training on a CPU in float32 and on a device as train.py runs there.

    python benchmarks/curve.py --device cuda --out curve                      # the probe's task, which needs no files
    python benchmarks/curve.py --device cuda --out curve --data work/data     # the small corpus that ./run.sh made before

300 steps of a tiny Sammo with everything that training has: schedules, regularizers, clipping, bf16 where the GPU has it. Both see
the same batches and draw other masks, so that losses agree in the mean over many steps: what is compared is each sixth of them, and
the last one decides (exit code 1 if it is off by more than --tolerance). OUT/cpu.json is measured once.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory of the losses")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--data", type=Path, help="with fbank and lang_char, as prepare.sh leaves them")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--tolerance", type=float, default=0.1, help="of the last losses' ratio from 1")
    parser.add_argument("--num-threads", type=int, default=0, help="of the CPU; 0: as PyTorch chooses")
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # --help answers before what follows is loaded

import json
import tempfile
from typing import Any

import torch
from machine import machine

from sammo.data.config import DataConfig
from sammo.data.datamodule import CsjDataModule
from sammo.data.tokens import load_tokenizer
from sammo.device import choose_device
from sammo.encoder.ssd import untuned
from sammo.errors import run_main
from sammo.files import atomic_write
from sammo.probe.recall import Delays, RecallData, RecallTask
from sammo.progress import progress
from sammo.signals import StopRequest
from sammo.training.config import TrainConfig
from sammo.training.distributed import World
from sammo.training.loop import Trainer
from sammo.training.randomness import seed_everything
from sammo.transducer import Transducer, model_config

SIXTHS = 6
SECONDS = 20.0  # of audio in a batch


def task(args: argparse.Namespace) -> tuple[Any, Any]:
    """What is learned, and its units."""
    if args.data is None:
        recall = RecallTask()
        delays = Delays(high=2.0, growth=args.steps // 2)
        return RecallData(recall, args.steps, 8, delays, (), args.seed), recall
    tokenizer = load_tokenizer(args.data / "lang_char")
    options = {"enable_musan": False, "drop_last": False, "num_workers": 2, "max_duration": SECONDS}
    return CsjDataModule(DataConfig(manifest_dir=args.data / "fbank", **options), tokenizer), tokenizer


def train(args: argparse.Namespace, device: torch.device, precision: str) -> list[float]:
    """The loss a frame of each step."""
    data, tokenizer = task(args)
    seed_everything(args.seed)  # which Balancers and Whitens act, too
    model = Transducer(model_config("sammo", "tiny", tokenizer.vocab_size)).to(device)
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as directory, StopRequest() as stop:
        options = {"exp_dir": Path(directory), "tensorboard": False, "precision": precision, "seed": args.seed}
        steps = {
            "num_epochs": 1000,
            "valid_interval": 10**9,
            "save_every_n": 10**9,
            "warm_step": 100,
            "ref_duration": SECONDS,
        }
        config = TrainConfig(**options, **steps, lr_warmup_batches=50)
        trainer = Trainer(config, model, data, tokenizer, World(device=device), stop, {}, SECONDS)
        trainer.model.train()
        loader = iter(())
        for _ in progress(range(args.steps), desc=str(device)):
            batch = next(loader, None)
            if batch is None:
                loader = iter(data.train_dataloader(trainer.epoch, None, 0, 1))
                batch = next(loader)
                trainer.epoch += 1
            step = trainer._step(batch).step
            losses.append(step["loss"] / max(step["frames"], 1.0))
    return losses


def main() -> int:
    args = parse_args()
    if args.num_threads:
        torch.set_num_threads(args.num_threads)
    device = choose_device(args.device)
    args.out.mkdir(parents=True, exist_ok=True)
    facts = {"steps": args.steps, "seed": args.seed, "data": str(args.data)}
    reference = args.out / "cpu.json"
    known = json.loads(reference.read_text()) if reference.is_file() else {}
    if {name: known.get(name) for name in facts} != facts:
        known = {**facts, "losses": train(args, torch.device("cpu"), "fp32")}
        with atomic_write(reference) as file:
            json.dump(known, file)
    with untuned():  # it is not speed that is looked at
        losses = train(args, device, "auto")
    print(f"loss a frame over {args.steps} steps, {machine(device)}\n")
    print("| steps | CPU, float32 | device | ratio |\n|---|---:|---:|---:|")
    ratio = 1.0
    for part in range(SIXTHS):
        begin, end = part * args.steps // SIXTHS, (part + 1) * args.steps // SIXTHS
        means = [sum(values[begin:end]) / (end - begin) for values in (known["losses"], losses)]
        ratio = means[1] / means[0]
        print(f"| {begin + 1} to {end} | {means[0]:.4f} | {means[1]:.4f} | {ratio:.3f} |")
    return int(not abs(ratio - 1.0) <= args.tolerance)


if __name__ == "__main__":
    run_main(main)
