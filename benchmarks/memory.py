#!/usr/bin/env python3
"""Memory of one long stream, and whether it drifts.

    OMP_NUM_THREADS=1 python benchmarks/memory.py --hours 3 --output memory

Feeds synthetic speech-like audio to the recognizer second by second and writes, once a minute of audio, the resident
memory of this process (memory.csv and memory.png). On the way:

- at half of the audio the encoder's state is packed into one flat tensor, unpacked, and resumed in a second stream:
  every later output must be bitwise the first one's (exact restart);
- a third stream starts there from nothing: the distance of its outputs to the first one's is written to the CSV, too
  (a model that drifts over hours would not be met again by a fresh start). Both run for ten minutes.

Exits 1 if the restart differs or if memory grows, after the first ten minutes, by more than --max-growth-mb and what
the transcript itself takes (its tokens with their time stamps and delays, BYTES_A_TOKEN each).
"""

from __future__ import annotations

import argparse
import csv
import gc
import math
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--encoder", default="sammo")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--chunk-size", type=int, default=64)
    parser.add_argument("--left-context-frames", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("memory"), help="Writes OUTPUT.csv and OUTPUT.png.")
    parser.add_argument("--max-growth-mb", type=float, default=4.0)
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # --help answers before what follows is loaded

import torch
from torch import Tensor

from sammo.encoder.state import state_numel
from sammo.errors import run_main
from sammo.files import atomic_path
from sammo.search import make_searcher
from sammo.streaming.recognizer import Snapshot, Stream, StreamingRecognizer
from sammo.transducer import Transducer, model_config

VOCAB_SIZE = 500
WARM_UP_MINUTES = 10  # allocators settle
BYTES_A_TOKEN = 320  # Python objects: a number and its place in a list, three times, and a link of the hypothesis
COMPARED = 600  # seconds after half time for which the other two streams run
ALIGNMENT = 64  # seconds: a whole number of chunks of 16, 32, 64 or 128 frames


def speech_like(second: int) -> Tensor:
    """One second of a vowel-like tone whose pitch, loudness and noise wander; silent now and then. A function of its
    index, so that any stream can be fed from anywhere."""
    generator = torch.Generator().manual_seed(second)
    draw = torch.rand(4, generator=generator)
    time_axis = torch.arange(16000) / 16000
    pitch = 90 + 180 * draw[0]
    syllables = 0.5 - 0.5 * torch.cos(2 * math.pi * (2 + 3 * draw[1]) * time_axis)
    tone = sum(torch.sin(2 * math.pi * pitch * k * time_axis) / k for k in range(1, 12))
    noise = torch.randn(16000, generator=generator)
    loudness = 0.0 if draw[2] < 0.1 else float(0.02 + 0.2 * draw[3])
    return loudness * syllables * tone / 3 + 0.003 * noise


def resident_mb() -> float:
    """Resident memory of this process, from /proc."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


class Lane:
    """A recognizer with one stream, and its encoder outputs by their place in the audio."""

    def __init__(self, model: Transducer, args: argparse.Namespace, start: int = 0, snapshot: Snapshot | None = None):
        """start: second of the audio at which the stream begins. snapshot: of a stream to resume."""
        self.outputs: dict[int, Tensor] = {}  # by feature frame, of one ``feed``
        self.start_frame = 100 * start
        self.recognizer = StreamingRecognizer(
            model,
            make_searcher(model, "greedy_search"),
            args.chunk_size,
            args.left_context_frames,
            on_frames=self._keep,
        )
        self.stream = self.recognizer.open(snapshot=snapshot)

    def feed(self, samples: Tensor) -> None:
        self.outputs.clear()
        self.stream.accept_audio(samples)
        while self.recognizer.ready(self.stream):
            self.recognizer.step()

    def _keep(self, stream: Stream, frames: Tensor) -> None:
        self.outputs[self.start_frame + stream.consumed] = frames.clone()


def make_model(args: argparse.Namespace) -> Transducer:
    """Random weights, with the blank so likely that a token comes out on one frame in ten, as in speech."""
    torch.manual_seed(0)
    model = Transducer(model_config(args.encoder, args.preset, vocab_size=VOCAB_SIZE)).eval()
    lane = Lane(model, args)
    frames: list[Tensor] = []
    for second in range(20):
        lane.feed(speech_like(second))
        frames += lane.outputs.values()
    joiner = model.joiner
    with torch.no_grad():
        logits = joiner.output_linear(torch.tanh(joiner.encoder_proj(torch.cat(frames))))
        gap = logits[:, 1:].max(dim=1).values - logits[:, 0]
        joiner.output_linear.bias[0] += torch.quantile(gap, 0.9)
    return model


def main() -> int:
    args = parse_args()
    torch.set_num_threads(1)
    model = make_model(args)
    lanes = [Lane(model, args)]
    state_values = state_numel(lanes[0].recognizer.model.encoder.init_state(1, args.left_context_frames))
    seconds = round(args.hours * 3600)
    # A place where chunks begin, so that the fresh start is cut into the same chunks.
    half = seconds // 2 // ALIGNMENT * ALIGNMENT
    restart_exact, distance, rows = True, math.nan, []
    started = time.perf_counter()
    for second in range(seconds):
        samples = speech_like(second)
        if second == half:
            lanes.append(Lane(model, args, snapshot=lanes[0].recognizer.snapshot(lanes[0].stream)))
            lanes.append(Lane(model, args, start=half))
        if second == half + COMPARED:
            del lanes[1:]
        for lane in lanes:
            lane.feed(samples)
        if len(lanes) == 3:
            first, restarted, fresh = (lane.outputs for lane in lanes)
            restart_exact &= first.keys() == restarted.keys()
            restart_exact &= all(torch.equal(first[place], restarted[place]) for place in first)
            for place in first.keys() & fresh.keys():
                distance = float((first[place] - fresh[place]).norm() / first[place].norm())
        if second % 60 == 59 or half <= second < half + 60:
            gc.collect()
            shown = f"{distance:.3g}" if len(lanes) == 3 else ""
            rows.append((second + 1, round(resident_mb(), 2), len(lanes[0].stream.result.tokens), shown))
    elapsed = time.perf_counter() - started
    write(args, rows)
    warm = min(60 * WARM_UP_MINUTES, seconds // 4)
    settled = [row for row in rows if row[0] > warm and not half < row[0] <= half + COMPARED] or rows[-1:]
    growth = max(row[1] for row in settled) - settled[0][1]
    tokens = settled[-1][2] - settled[0][2]
    transcript = BYTES_A_TOKEN * tokens / 2**20
    print(f"{args.encoder} {args.preset}, chunk {args.chunk_size}: {seconds / 3600:g} h of audio in {elapsed:.0f} s")
    print(f"state per stream: {state_values} values, {4 * state_values / 1024:.0f} KiB")
    print(f"resident memory: {rows[-1][1]:.1f} MB at the end, growth {growth:.2f} MB after warm-up")
    print(f"transcript: {tokens} tokens since then, about {transcript:.2f} MB")
    print(f"restart from the packed state at half time: {'bitwise equal' if restart_exact else 'DIFFERENT'}")
    print(f"fresh start at half time: relative distance {distance:.2e} when it ended")
    return 0 if restart_exact and growth <= args.max_growth_mb + transcript else 1


def write(args: argparse.Namespace, rows: list[tuple]) -> None:
    """OUTPUT.csv and OUTPUT.png."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    args.output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(args.output.with_suffix(".csv")) as path, open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["audio_seconds", "resident_mb", "tokens", "fresh_start_relative_distance"])
        writer.writerows(rows)
    figure, axes = pyplot.subplots(figsize=(7, 3.5))
    axes.plot([row[0] / 60 for row in rows], [row[1] for row in rows])
    axes.axvline(args.hours * 30, color="gray", linestyle=":", label="two more streams, for ten minutes")
    axes.set(xlabel="minutes of audio", ylabel="resident memory (MB)", ylim=(0, 1.2 * max(row[1] for row in rows)))
    axes.legend()
    figure.tight_layout()
    with atomic_path(args.output.with_suffix(".png")) as path:
        figure.savefig(path, format="png", dpi=120)


if __name__ == "__main__":
    run_main(main)
