#!/usr/bin/env python3
"""Throughput and peak memory of training steps, and where their time goes, Sammo beside Zipformer.

    python benchmarks/training.py --device cuda --max-duration 650
    python benchmarks/training.py --preset tiny --vocab-size 648 --max-duration 12 --num-threads 1

A step is what train.py does with a batch that is already there: forward, backward, ScaledAdam with gradient clipping.
The batches are random, of CSJ's shape: utterances of 2 to 11 s, those of a batch within a tenth of each other, 7
characters a second, --max-duration seconds in all. The systems take turns batch by batch, so that both see the same
load of the machine. Each batch comes once before it is timed: what is compiled for its shape is not measured.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", default="sammo,zipformer")
    parser.add_argument("--preset", default="medium")
    parser.add_argument("--vocab-size", type=int, default=3266)
    parser.add_argument("--max-duration", type=float, default=650.0)
    parser.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp16", "fp32"))
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--num-threads", type=int, default=0)
    parser.add_argument("--steps", type=int, default=40, help="timed steps of each system; as many come before")
    parser.add_argument("--max-seconds", type=float, default=0.0, help="fewer steps if they take longer; 0: no limit")
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # --help answers before what follows is loaded

import torch
from machine import machine, peak_flops
from torch.utils.flop_counter import FlopCounterMode

from sammo.device import choose_device
from sammo.errors import run_main
from sammo.kernels.linear import half_weights
from sammo.optim import ScaledAdam
from sammo.progress import progress
from sammo.regularize import set_batch_count
from sammo.training.config import TrainConfig
from sammo.training.precision import Precision
from sammo.transducer import Transducer, model_config, pad_tokens

PARTS = ("encoder", "loss", "backward", "optimizer")
CHARACTERS_A_SECOND = 7.0
SETTLED = 100_000  # reference batches: the regularizers' schedules are over


class System:
    """A model in training, and what its steps cost."""

    def __init__(self, name: str, args: argparse.Namespace, device: torch.device) -> None:
        self.name, self.device = name, device
        torch.manual_seed(0)
        self.model = Transducer(model_config(name, args.preset, args.vocab_size)).to(device).train()
        set_batch_count(self.model, SETTLED)
        self.optimizer = ScaledAdam(self.model.parameters(), lr=1e-4, clipping_scale=2.0)
        self.precision = Precision(args.precision, device)
        self.times = dict.fromkeys(PARTS, 0.0)
        self.steps = 0
        self.audio = 0.0
        self.frames = 0  # padding included
        self.peak = 0
        self.flops_a_frame = 0.0

    def count_flops(self, features: torch.Tensor, *batch: Any) -> None:
        """Of the multiplications of matrices in a step, forward and backward; kernels of Triton are not seen."""
        with FlopCounterMode(display=False) as counter:
            self.step(features, *batch, count=False)
        self.flops_a_frame = counter.get_total_flops() / features[..., 0].numel()

    def step(
        self, features: torch.Tensor, lengths: torch.Tensor, tokens: torch.Tensor, chunk: int, count: bool
    ) -> None:
        """One step; added to the numbers if ``count``."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            torch.cuda.synchronize(self.device)
        left = 128 if chunk != -1 else -1
        begin, marks = time.perf_counter(), [self._mark()]
        with self.precision.autocast(), half_weights(self.model):
            encoded = self.model.encoder(features, lengths, chunk_size=chunk, left_context_frames=left)
            marks.append(self._mark())
            losses = self.model.loss(encoded.frames, encoded.lengths, tokens)
        simple, pruned, ctc = TrainConfig().loss_scales(SETTLED)
        total = simple * losses.simple.sum() + pruned * losses.pruned.sum() + ctc * losses.ctc.sum()
        marks.append(self._mark())
        self.precision.scaler.scale(total).backward()
        marks.append(self._mark())
        self.precision.scaler.step(self.optimizer)
        self.precision.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        marks.append(self._mark())
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        seconds = time.perf_counter() - begin
        if count:
            self.steps += 1
            for part, first, last in zip(PARTS, marks, marks[1:]):
                self.times[part] += seconds * between(first, last) / between(marks[0], marks[-1])
            self.audio += float(lengths.sum()) / 100
            self.frames += features[..., 0].numel()
            if self.device.type == "cuda":
                self.peak = max(self.peak, torch.cuda.max_memory_allocated(self.device))

    def _mark(self) -> Any:
        """This moment, on a GPU in its own time: to wait for it would slow down what follows."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def between(first: Any, last: Any) -> float:
    """Seconds between two marks."""
    return last - first if isinstance(first, float) else 1e-3 * first.elapsed_time(last)


def random_batch(args: argparse.Namespace, seed: int, device: torch.device):
    """Features (N, T, 80), lengths (N,), symbols, and the chunk size of the batch."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    longest = rng.uniform(2.0, min(11.0, args.max_duration))
    count = int(args.max_duration // longest)
    lengths = torch.tensor(sorted((int(100 * longest * rng.uniform(0.9, 1.0)) for _ in range(count)), reverse=True))
    features = torch.randn(count, int(lengths[0]), 80, generator=generator)
    tokens = [
        torch.randint(1, args.vocab_size, (int(length / 100 * CHARACTERS_A_SECOND),), generator=generator).tolist()
        for length in lengths
    ]
    return features.to(device), lengths, pad_tokens(tokens), rng.choice((16, 32, 64, -1))


def main() -> None:
    args = parse_args()
    if args.num_threads:
        torch.set_num_threads(args.num_threads)
    device = choose_device(args.device)
    systems = [System(name, args, device) for name in args.encoders.split(",")]
    begin, known = time.monotonic(), args.steps
    for timed in (False, True):
        for number in progress(range(known), desc="timed steps" if timed else "steps"):
            batch = random_batch(args, number, device)
            for system in systems:
                if not timed and number == 0:
                    system.count_flops(*batch)
                system.step(*batch, count=timed)
            # Four fifths for the compiler, which comes first.
            if args.max_seconds and time.monotonic() - begin > args.max_seconds * (1.0 if timed else 0.8):
                known = number + 1
                break
    print(f"{args.preset}, V = {args.vocab_size}, batches of {args.max_duration:g} s, {systems[0].precision.name}")
    print(f"{machine(device)}\n")
    print(
        "| system | audio h/min | x real time | ratio | ms a step | "
        + " | ".join(PARTS)
        + " | peak GiB | TFLOP/s | MFU | padding |"
    )
    print("|---|---:|---:|---:|---:|" + "---:|" * len(PARTS) + "---:|---:|---:|---:|")
    base = sum(systems[-1].times.values()) / systems[-1].audio
    for system in systems:
        total = sum(system.times.values())
        shares = " | ".join(f"{100 * system.times[part] / total:.0f} %" for part in PARTS)
        peak = f"{system.peak / 2**30:.1f}" if system.peak else ""
        rate = system.flops_a_frame * system.frames / total
        most = peak_flops(device)
        used = f"{100 * rate / most:.1f} %" if most else ""
        padding = 1 - 100 * system.audio / system.frames
        print(
            f"| {system.name} | {system.audio / total / 60:.2f} | {system.audio / total:.0f} | "
            f"{base / (total / system.audio):.2f} | {1e3 * total / system.steps:.0f} | {shares} | {peak} | "
            f"{rate / 1e12:.3g} | {used} | {100 * padding:.1f} % |"
        )
    print(f"\nratio: speed against {systems[-1].name}; MFU: share of the GPU's rate in half precision without sparsity")


if __name__ == "__main__":
    run_main(main)
