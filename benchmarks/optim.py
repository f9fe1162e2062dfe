#!/usr/bin/env python3
"""Time of one optimizer step on a model's parameters: ScaledAdam beside torch.optim.AdamW(foreach=True).

    OMP_NUM_THREADS=1 python benchmarks/optim.py [--encoder zipformer] [--preset medium] [--device cpu] ...

Gradients are random and stay the same; steps of the two optimizers take turns, so that both see the same load
of the machine. ScaledAdam runs with gradient clipping, as in training. Medians over the steps, and quartiles;
with one CPU thread its processor time, what a clock shows on an idle machine, otherwise clock time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--encoder", choices=("zipformer", "sammo"), default="zipformer")
    parser.add_argument("--preset", default="medium")
    parser.add_argument("--vocab-size", type=int, default=3266)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--steps", type=int, default=24, help="timed steps; 4 more come first")
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # --help answers before what follows is loaded

import torch
from machine import machine

from sammo.device import choose_device
from sammo.errors import run_main
from sammo.optim import ScaledAdam
from sammo.transducer import Transducer, model_config


def timed_step(optimizer: torch.optim.Optimizer, device: torch.device) -> float:
    """Milliseconds of one step."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if alone else time.perf_counter
    start = clock()
    optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1e3 * (clock() - start)


def main() -> None:
    args = parse_args()
    torch.manual_seed(0)
    device = choose_device(args.device)
    params = list(Transducer(model_config(args.encoder, args.preset, args.vocab_size)).to(device).parameters())
    for p in params:
        p.grad = torch.randn_like(p)
    optimizers = {
        "AdamW(foreach=True)": torch.optim.AdamW(params, lr=1e-5, foreach=True),
        "ScaledAdam": ScaledAdam(params, lr=1e-5, clipping_scale=2.0),
    }
    times: dict[str, list[float]] = {name: [] for name in optimizers}
    for step in range(args.steps + 4):
        for name, optimizer in optimizers.items():
            elapsed = timed_step(optimizer, device)
            if step >= 4:
                times[name].append(elapsed)

    millions = sum(p.numel() for p in params) / 1e6
    print(f"{args.encoder} {args.preset}: {len(params)} parameters of {millions:.2f} M values, {device.type}")
    print(f"{machine(device)}\n")
    print("| optimizer | median ms | quartiles | ratio |\n|---|---:|---:|---:|")
    base = statistics.median(next(iter(times.values())))
    for name, values in times.items():
        low, median, high = statistics.quantiles(values, n=4)
        print(f"| {name} | {median:.1f} | {low:.1f} to {high:.1f} | {median / base:.2f} |")


if __name__ == "__main__":
    run_main(main)
