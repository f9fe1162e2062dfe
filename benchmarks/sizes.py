#!/usr/bin/env python3
"""Size of an encoder on disk and in memory, in every runtime and precision.

    OMP_NUM_THREADS=1 python benchmarks/sizes.py --work DIR [--preset medium] [--chunk-size 32] ...

The file's bytes, and what a process of its own holds in memory (resident) once it has loaded the encoder and computed a few
chunks of one stream, more than before: weights, copies that runtimes make of them, buffers. The last column is all of the
process, with Python, PyTorch and the runtime. Random weights; the exports are those of runtimes.py, in the same --work.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

STEPS = 3
KINDS = (
    ("torch", "float32"),
    ("onnxruntime", "float32"),
    ("onnxruntime", "float16"),
    ("onnxruntime", "int8"),
    ("openvino", "float32"),
    ("openvino", "float16"),
    ("openvino", "int8"),
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="Directory of exports.")
    parser.add_argument("--preset", default="medium")
    parser.add_argument("--encoders", default="sammo,zipformer")
    parser.add_argument("--chunk-size", type=int, default=32)
    parser.add_argument("--left-context-frames", type=int, default=128, help="Of Zipformer.")
    parser.add_argument("--load", nargs=2, metavar=("RUNTIME", "FILE"), help=argparse.SUPPRESS)
    return parser.parse_args()


def resident() -> int:
    """Bytes of this process in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


def load(args: argparse.Namespace) -> dict[str, int]:
    """In a process of its own: loads an encoder and runs it; bytes before and after."""
    runtime, file = args.load
    if runtime == "torch":
        return _load_torch(args)
    import importlib

    import numpy as np

    from sammo.export.deployed import OnnxSession, OpenVinoSession

    importlib.import_module(runtime)
    with np.load(args.work / f"feed-{args.encoders}.npz") as stored:
        feed = dict(stored)
    before = resident()
    session = OnnxSession(Path(file), 1) if runtime == "onnxruntime" else OpenVinoSession(Path(file), 1)
    for _ in range(STEPS):
        session.run(feed)
    return {"before": before, "after": resident()}


def _load_torch(args: argparse.Namespace) -> dict[str, int]:
    import torch
    from streaming import Step

    from sammo.transducer import Transducer, model_config

    torch.set_num_threads(1)
    before = resident()
    config = model_config(args.encoders, args.preset, vocab_size=500)
    encoder = Transducer(config).eval().encoder
    left = args.left_context_frames if config.encoder.left_context else 0
    with torch.inference_mode():
        step = Step(encoder, args.chunk_size, left, 1)
        for _ in range(STEPS):
            step()
    return {"before": before, "after": resident()}


def measure(args: argparse.Namespace, name: str) -> list[tuple[str, str, int, dict[str, int]]]:
    """(runtime, precision, bytes on disk, bytes in memory) of an encoder."""
    import numpy as np
    from runtimes import Exports, Setting
    from streaming import window

    from sammo.export.deployed import file_name
    from sammo.export.graphs import EncoderGraph

    exports = Exports(args.work, args.preset)
    model = exports.model(name)
    left = args.left_context_frames if model.config.encoder.left_context else 0
    setting = Setting(name, left, args.chunk_size, 1)
    graph = EncoderGraph(model, args.chunk_size, left)
    inputs = (window(1, args.chunk_size)[0], *graph.start(1))
    feed: dict[str, Any] = {name: value.numpy() for name, value in zip(graph.inputs, inputs)}
    args.work.mkdir(parents=True, exist_ok=True)
    np.savez(args.work / f"feed-{name}.npz", **feed)
    weights = 4 * sum(value.numel() for value in model.encoder.state_dict().values())
    rows = []
    for runtime, precision in KINDS:
        file, size = Path(), weights
        if runtime != "torch":
            file = exports.directory(setting, runtime, precision) / file_name("encoder", precision, runtime)
            parts = (path for path in (file, file.with_suffix(".bin")) if path.is_file())
            size = sum(path.stat().st_size for path in parts)
        rows.append((runtime, precision, size, _in_a_process(args, name, runtime, file)))
    return rows


def _in_a_process(args: argparse.Namespace, name: str, runtime: str, file: Path) -> dict[str, Any]:
    words = [__file__, "--work", args.work, "--preset", args.preset, "--encoders", name, "--load", runtime, file]
    words += ["--chunk-size", args.chunk_size, "--left-context-frames", args.left_context_frames]
    found = subprocess.run([sys.executable, *map(str, words)], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(found.stdout.splitlines()[-1])


def main() -> int:
    args = parse_args()
    if args.load:
        print(json.dumps(load(args)))
        return 0
    print("| encoder | runtime | precision | MB on disk | MB in memory | MB of the process |")
    print("|---|---|---|---:|---:|---:|")
    for name in args.encoders.split(","):
        for runtime, precision, size, memory in measure(args, name):
            sizes = (size, memory["after"] - memory["before"], memory["after"])
            print(f"| {name} | {runtime} | {precision} | {' | '.join(f'{value / 1e6:.1f}' for value in sizes)} |")
    return 0


if __name__ == "__main__":
    from sammo.errors import run_main

    run_main(main)
