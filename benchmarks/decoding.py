#!/usr/bin/env python3
"""Speed of decoding, whole utterances in batches and streams chunk by chunk, Sammo beside Zipformer.

    python benchmarks/decoding.py --device cuda
    python benchmarks/decoding.py --preset tiny --vocab-size 60 --utterances 2 --streams 2 --seconds 2

Random weights and noise, chunks of 0.64 s, left context 128 for Zipformer. With random weights hardly a frame is without a symbol,
which is more than speech has. A first run of each row is not counted.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="medium")
    parser.add_argument("--vocab-size", type=int, default=3266)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--utterances", type=int, default=64, help="in a batch")
    parser.add_argument("--streams", type=int, default=64, help="at a time")
    parser.add_argument("--seconds", type=float, default=10.0, help="of audio of each")
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # --help answers before what follows is loaded

import torch
from machine import machine

from sammo.device import choose_device
from sammo.errors import run_main
from sammo.search import make_searcher
from sammo.streaming.recognizer import StreamingRecognizer, recognize
from sammo.transducer import Transducer, model_config

CHUNK = 32  # frames of 20 ms
LEFT = {"sammo": 0, "zipformer": 128}
METHODS = ("greedy_search", "modified_beam_search")


@torch.inference_mode()
def batched(model: Transducer, method: str, left: int, args: argparse.Namespace, device: torch.device) -> float:
    """Seconds for a batch from its features on."""
    frames = round(100 * args.seconds)
    features = torch.randn(args.utterances, frames, 80).to(device)
    lengths = torch.full((args.utterances,), frames)
    begin = time.perf_counter()
    encoded = model.encoder(features, lengths, chunk_size=CHUNK, left_context_frames=left)
    make_searcher(model, method)(encoded.frames, encoded.lengths)
    return time.perf_counter() - begin  # its results are on the CPU


def streamed(model: Transducer, method: str, left: int, args: argparse.Namespace) -> float:
    """Seconds for streams from their samples on."""
    recognizer = StreamingRecognizer(model, make_searcher(model, method), CHUNK, left)
    audio = 0.1 * torch.randn(round(16_000 * args.seconds))
    begin = time.perf_counter()
    done = list(recognize(recognizer, [(key, lambda: [audio]) for key in range(args.streams)], args.streams))
    assert len(done) == args.streams and not any(stream.error for stream in done)
    return time.perf_counter() - begin


def main() -> None:
    args = parse_args()
    device = choose_device(args.device)
    print(f"{args.preset}, V = {args.vocab_size}, {machine(device)}\n")
    print("| system | search | what | at a time | x real time |\n|---|---|---|---:|---:|")
    for name, left in LEFT.items():
        torch.manual_seed(0)
        model = Transducer(model_config(name, args.preset, args.vocab_size)).to(device).eval()
        for method in METHODS:
            for _ in range(2):
                seconds = batched(model, method, left, args, device)
            print(f"| {name} | {method} | batch | {args.utterances} | {args.utterances * args.seconds / seconds:.0f} |")
            for _ in range(2):
                seconds = streamed(model, method, left, args)
            print(
                f"| {name} | {method} | streams | {args.streams} | {args.streams * args.seconds / seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    run_main(main)
