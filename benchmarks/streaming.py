#!/usr/bin/env python3
"""Time of a streaming step against a matrix-multiply floor, Sammo beside Zipformer.

    OMP_NUM_THREADS=1 python benchmarks/streaming.py [--preset medium] [--encoders sammo,zipformer] [--icefall DIR] ...

One step takes one chunk of every stream of the batch through front-end and encoder, from features and the carried
state to encoder outputs and the next state. The floor is the time that the step's FLOPs (counted by
torch.utils.flop_counter) would take at the rate of a (32 x 512) x (512 x 1536) product, which is measured between the
steps, in the same seconds; "linear" is the time of the step's linear layers alone, one after the other, against it.
Random weights; one thread, its processor time (what a clock shows on an idle machine); medians. --icefall measures the
original PyTorch code beside ours: DIR is a checkout of icefall, which needs k2, pypinyin, kaldifst, num2words, dill and
typeguard.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, Callable, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sammo.options import integers


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="medium")
    parser.add_argument("--encoders", default="sammo,zipformer")
    parser.add_argument("--chunk-sizes", type=integers, default=(16, 32, 64), help="Chunks of one stream.")
    parser.add_argument("--left-context-frames", type=integers, default=(64, 128, 256), help="Of Zipformer.")
    parser.add_argument("--batch", type=integers, default=(16,), help="Streams in a batch; with --batch-chunk-size.")
    parser.add_argument("--batch-chunk-size", type=integers, default=(32,))
    parser.add_argument("--icefall", type=Path, metavar="DIR", help="Measure the original Zipformer, too.")
    parser.add_argument("--seconds", type=float, default=5.0, help="Time for each row.")
    parser.add_argument("--profile", action="store_true", help="Print where the time goes instead (first row only).")
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # --help answers before what follows is loaded

import torch
import torch.nn.functional as F
from machine import machine
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from sammo import geometry
from sammo.encoder import Encoder, build_encoder, encoder_config
from sammo.errors import UserError, run_main

FLOOR_SHAPE = (32, 512, 1536)
FLOOR_REPEATS = 40  # products timed together, about 30 ms


def floor_rate() -> float:
    """FLOP/s of the reference product now."""
    m, k, n = FLOOR_SHAPE
    a, b = torch.randn(m, k), torch.randn(k, n)
    start = time.thread_time()
    for _ in range(FLOOR_REPEATS):
        torch.mm(a, b)
    return FLOOR_REPEATS * 2 * m * k * n / (time.thread_time() - start)


def window(batch: int, chunk_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of one chunk of every stream, and their lengths."""
    features = torch.randn(batch, geometry.window(chunk_size), 80)
    return features, torch.full((batch,), features.size(1))


class Step:
    """One encoder step that can be repeated, its state carried on."""

    def __init__(self, encoder: Encoder, chunk_size: int, left: int, batch: int):
        self.encoder, self.options = encoder, {"chunk_size": chunk_size, "left_context_frames": left}
        self.state = encoder.init_state(batch, left)
        self.features, self.lengths = window(batch, chunk_size)

    def __call__(self) -> None:
        self.state = self.encoder(self.features, self.lengths, self.state, **self.options).state


class IcefallStep:
    """The same step by icefall's Zipformer, whose directory is on the path."""

    def __init__(self, encoder: torch.nn.ModuleDict, chunk_size: int, left: int, batch: int):
        # icefall's own classes
        self.embed: Any = encoder["embed"]
        self.encoder: Any = encoder["encoder"]
        self.left = left
        self.encoder.chunk_size, self.encoder.left_context_frames = (chunk_size,), (left,)
        self.state = [self.embed.get_init_states(batch), self.encoder.get_init_states(batch)]
        self.features, self.lengths = window(batch, chunk_size)

    def __call__(self) -> None:
        embedded, lengths, past = self.embed.streaming_forward(self.features, self.lengths, self.state[0])
        padding = torch.zeros(len(lengths), self.left + embedded.size(1), dtype=torch.bool)
        *_, state = self.encoder.streaming_forward(embedded.transpose(0, 1), lengths, self.state[1], padding)
        self.state = [past, state]


def icefall_encoder(directory: Path, preset: str) -> torch.nn.ModuleDict:
    """Its front-end and encoder in the sizes of our preset, for streaming."""
    sys.path[:0] = [str(directory), str(directory / "egs/librispeech/ASR/zipformer")]
    try:
        from subsampling import Conv2dSubsampling
        from zipformer import Zipformer2
    except ImportError as error:
        raise UserError(
            f"--icefall {directory}: {error}; it takes a checkout of icefall, k2 for this PyTorch, and what icefall's "
            "own import needs: pip install pypinyin kaldifst num2words dill typeguard"
        ) from None
    config = encoder_config("zipformer", preset)
    same = ("encoder_dim", "query_head_dim", "pos_head_dim", "value_head_dim", "num_heads", "feedforward_dim")
    encoder = Zipformer2(
        downsampling_factor=config.downsampling,
        output_downsampling_factor=config.output_downsampling,
        num_encoder_layers=config.num_layers,
        encoder_unmasked_dim=config.unmasked_dim,
        cnn_module_kernel=config.conv_kernel,
        causal=True,
        chunk_size=(32,),
        left_context_frames=(128,),
        pos_dim=config.pos_dim,
        **{name: getattr(config, name) for name in same},
    )
    return torch.nn.ModuleDict({"embed": Conv2dSubsampling(80, config.encoder_dim[0]), "encoder": encoder}).eval()


def count_flops(step: Step | IcefallStep) -> int:
    # Packed products are not in the counter's own table.
    packed = {torch.ops.mkldnn._linear_pointwise: lambda x, _weight, *_, out_shape, **__: 2 * prod(x) * out_shape[-1]}
    counter = FlopCounterMode(display=False, custom_mapping=packed)
    with counter:
        step()
    return counter.get_total_flops()


class LinearLayers(TorchFunctionMode):
    """Records the linear layers of a step; a call repeats them on the same inputs."""

    def __init__(self, step: Step | IcefallStep):
        super().__init__()
        self.calls: list[tuple[Callable, tuple, dict]] = []
        with self:
            step()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (F.linear, torch.ops.mkldnn._linear_pointwise):
            self.calls.append((function, args, kwargs or {}))
        return function(*args, **(kwargs or {}))

    def __call__(self) -> None:
        for function, args, kwargs in self.calls:
            function(*args, **kwargs)


class Measured(NamedTuple):
    """Medians, in seconds, and the floating-point operations of a step."""

    step: float
    linear: float
    floor: float
    flops: int


def measure(step: Step | IcefallStep, seconds: float) -> Measured:
    """Step, its linear layers and the floor, in turns for about ``seconds``."""
    flops = count_flops(step)
    linear = LinearLayers(step)
    times: list[list[float]] = [[], [], []]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 7:
        times[2].append(flops / floor_rate())
        for run, taken in zip((step, linear), times):
            start = time.thread_time()
            run()
            taken.append(time.thread_time() - start)
    own, layers, floor = map(statistics.median, times)
    return Measured(own, layers, floor, flops)


def main() -> int:
    args = parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = [(chunk, 1) for chunk in args.chunk_sizes]
    rows += [(chunk, batch) for batch in args.batch for chunk in args.batch_chunk_size]
    print(f"Machine: {machine()}; preset {args.preset}, random weights, float32.\n")
    columns = ("encoder", "left context", "chunk", "streams", "GFLOP", "step ms", "floor ms", "step / floor")
    print(f"| {' | '.join((*columns, 'linear / floor', 'x real time'))} |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    with torch.inference_mode():
        for name in args.encoders.split(",") + ["icefall"] * bool(args.icefall):
            if name == "icefall":
                make_step = partial(IcefallStep, icefall_encoder(args.icefall, args.preset))
                attends = True
            else:
                config = encoder_config(name, args.preset)
                make_step, attends = partial(Step, build_encoder(config).eval()), config.left_context
            for left in args.left_context_frames if attends else [0]:
                for chunk, batch in rows:
                    step = make_step(chunk, left, batch)
                    if args.profile:
                        return profile(step)
                    found = measure(step, args.seconds)
                    print(
                        f"| {name} | {left} | {chunk} | {batch} | {found.flops / 1e9:.3f} | {1e3 * found.step:.1f} "
                        f"| {1e3 * found.floor:.1f} | {found.step / found.floor:.2f} "
                        f"| {found.linear / found.floor:.2f} "
                        f"| {batch * chunk * 0.02 / found.step:.1f} |",
                        flush=True,
                    )
    return 0


def profile(step: Step | IcefallStep) -> int:
    """Time by operator over 20 steps."""
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], with_flops=True) as profiler:
        for _ in range(20):
            step()
    print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=40, max_name_column_width=40))
    return 0


if __name__ == "__main__":
    run_main(main)
