#!/usr/bin/env python3
"""Throughput of the training loader alone, in audio hours per minute, for its ways to get and to augment features.

Usage: python benchmarks/data.py --manifest-dir data/fbank --lang data/lang_char [--shar-dir data/shar]
    [--seconds 20] [--workers 0 2] [data options]
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sammo.data.config import DataConfig
from sammo.options import add_options, from_args


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--lang", type=Path, default=Path("data/lang_char"))
    parser.add_argument("--seconds", type=float, default=20.0, help="Time to measure each row for.")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="Values of --num-workers to measure.")
    add_options(parser, DataConfig, "data", "How batches are made of the corpus that prepare.sh wrote.")
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # --help answers before what follows is loaded

import torch

from sammo.data.datamodule import CsjDataModule
from sammo.data.dataset import WaitTimer
from sammo.data.tokens import Tokenizer, load_tokenizer
from sammo.errors import run_main


def variants(config: DataConfig, workers: list[int]) -> list[tuple[str, DataConfig]]:
    """The rows of the table."""
    stored = dataclasses.replace(config, shar_dir=None)
    rows = []
    for count in workers:
        for name, base in (("stored", stored), ("shar", config), ("on the fly", stored)):
            if name == "shar" and config.shar_dir is None:
                continue
            base = dataclasses.replace(base, on_the_fly_feats=name == "on the fly", num_workers=count)
            plain = dataclasses.replace(base, enable_musan=False, enable_spec_aug=False)
            masked = dataclasses.replace(base, enable_musan=False)
            rows += [(name, plain), (name, masked), (name, base)]
    return rows


def measure(config: DataConfig, tokenizer: Tokenizer, seconds: float) -> tuple[float, float]:
    """(audio hours per minute, seconds to the first batch); reads epochs until ``seconds`` are over."""
    module = CsjDataModule(config, tokenizer)
    module.train_survey()
    audio, spent, first, epoch = 0.0, 0.0, None, 0
    while spent < seconds:
        epoch += 1
        timer = WaitTimer(module.train_dataloader(epoch))
        begin = time.perf_counter()
        for _ in timer:
            if first is None:
                first = time.perf_counter() - begin
            if spent + time.perf_counter() - begin > seconds:
                break
        audio += timer.audio_seconds
        spent += time.perf_counter() - begin
    return audio / 3600 / (spent / 60), first or 0.0


def main() -> None:
    args = parse_args()
    torch.set_num_threads(1)
    config = from_args(DataConfig, args)
    tokenizer = load_tokenizer(args.lang)
    print("| features | workers | noise | SpecAugment | audio h/min | x real time | first batch (s) |")
    print("|---|---|---|---|---|---|---|")
    for name, row in variants(config, args.workers):
        rate, first = measure(row, tokenizer, args.seconds)
        flags = ["yes" if flag else "no" for flag in (row.enable_musan, row.enable_spec_aug)]
        print(f"| {name} | {row.num_workers} | {flags[0]} | {flags[1]} | {rate:.1f} | {rate * 60:.0f} | {first:.2f} |")
        sys.stdout.flush()


if __name__ == "__main__":
    run_main(main)
