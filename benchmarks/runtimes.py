#!/usr/bin/env python3
"""Time of a streaming step in every runtime against a matrix-multiply floor, Sammo beside Zipformer.

    OMP_NUM_THREADS=1 python benchmarks/runtimes.py --work DIR [--preset medium] [--budget 280] ...

One step takes one chunk of every stream through an exported encoder, its state handed over as the runtime's users do.
The floor is the time of the step's float32 multiplications at the rate of a (32 x 512) x (512 x 1536) product, which is
measured between the steps, in the same seconds, as in streaming.py; also for 8 bits, which may be below it. Random
weights, one thread, processor time, medians. Two encoders of one setting are measured one after the other: compare their
ratios to the floor.

Exports and results are kept in --work: a run that is interrupted, or that ends with its --budget of seconds, goes on
where it was when it is started again. What the whole set has is printed at the end of every run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sammo.options import integers, parse_bool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="Directory of exports and results.")
    parser.add_argument("--preset", default="medium")
    parser.add_argument("--encoders", default="sammo,zipformer")
    parser.add_argument("--chunk-sizes", type=integers, default=(16, 32, 64), help="Chunks of one stream.")
    parser.add_argument("--left-context-frames", type=integers, default=(64, 128, 256), help="Of Zipformer.")
    parser.add_argument("--batch", type=integers, default=(16,), help="Streams in a batch; with --batch-chunk-size.")
    parser.add_argument("--batch-chunk-size", type=integers, default=(32,))
    parser.add_argument("--runtimes", default="torch,onnxruntime,openvino", help="Columns to measure.")
    parser.add_argument("--int8-signed", type=parse_bool, default=False, help="Of onnxruntime's weights.")
    parser.add_argument("--exports-only", action="store_true", help="Make what is to be measured, and measure nothing.")
    parser.add_argument("--seconds", type=float, default=0.8, help="Time for each cell, a step and its floor in turns.")
    parser.add_argument("--budget", type=float, default=280.0, help="Seconds after which no cell is begun.")
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # --help answers before what follows is loaded

import torch
from machine import machine
from streaming import Step, count_flops, floor_rate, window

from sammo.errors import run_main
from sammo.export.deployed import file_name, load_session, multiplies_bfloat16
from sammo.export.graphs import EncoderGraph
from sammo.export.onnx import write_graph
from sammo.export.openvino import write_openvino
from sammo.export.quantize import halve, quantize
from sammo.files import atomic_write
from sammo.transducer import Transducer, model_config

RUNTIMES = (
    ("torch", "float32"),
    ("onnxruntime", "float32"),
    ("onnxruntime", "int8"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
    ("openvino", "int8"),
)
LEAST = 5  # steps


class Setting(NamedTuple):
    """A row of the table."""

    encoder: str
    left: int
    chunk: int
    streams: int


class Exports:
    """The exported encoders of a preset, made when they are asked for and kept."""

    def __init__(self, work: Path, preset: str, signed: bool = False) -> None:
        self.work, self.preset, self.signed = work / preset, preset, signed
        self._model: tuple[str, Transducer] | None = None

    def model(self, name: str) -> Transducer:
        if self._model is None or self._model[0] != name:
            torch.manual_seed(0)
            self._model = name, Transducer(model_config(name, self.preset, vocab_size=500)).eval()
        return self._model[1]

    def directory(self, setting: Setting, runtime: str, precision: str) -> Path:
        """With the file of a runtime in it."""
        directory = self.work / f"{setting.encoder}-{setting.left}-{setting.chunk}"
        directory.mkdir(parents=True, exist_ok=True)
        onnx = directory / file_name("encoder")
        self._make(onnx, lambda path: write_graph(self._graph(setting), path, {}))
        wanted = directory / file_name("encoder", precision, runtime)
        if runtime == "onnxruntime" and precision == "int8":
            self._make(wanted, lambda path: quantize(onnx, path, signed=self.signed))
        elif runtime == "onnxruntime" and precision == "float16":
            self._make(wanted, lambda path: halve(onnx, path))
        elif runtime == "openvino":
            kind = "float32" if precision == "bfloat16" else precision
            if not wanted.is_file():  # two files: the one that is looked for is written last
                write_openvino(onnx, wanted, kind)
        return directory

    def _graph(self, setting: Setting) -> EncoderGraph:
        return EncoderGraph(self.model(setting.encoder), setting.chunk, setting.left)

    @staticmethod
    def _make(path: Path, write: Callable[[Path], None]) -> None:
        if not path.is_file():
            part = path.with_name(f"part-{path.name}")
            write(part)
            part.replace(path)


class ExportedStep:
    """One step in a runtime, its outputs the next inputs."""

    def __init__(self, exports: Exports, setting: Setting, runtime: str, precision: str) -> None:
        self._session = load_session(exports.directory(setting, runtime, precision), "encoder", runtime, precision)
        graph = EncoderGraph(exports.model(setting.encoder), setting.chunk, setting.left)
        self._names = graph.layout.names
        self._states = [state.numpy() for state in graph.start(setting.streams)]
        self._x = window(setting.streams, setting.chunk)[0].numpy()

    def __call__(self) -> None:
        outputs = self._session.run(dict(zip(("x", *self._names), (self._x, *self._states))))
        self._states = outputs[1:]


def measure(step: Callable[[], None], flops: int, seconds: float) -> tuple[float, float]:
    """Medians in seconds: of a step and of its floor, taken in turns."""
    step()
    times: list[float] = []
    floors: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < LEAST:
        floors.append(flops / floor_rate())
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    return statistics.median(times), statistics.median(floors)


def all_settings(args: argparse.Namespace) -> Iterator[Setting]:
    for name in args.encoders.split(","):
        lefts = args.left_context_frames if model_config(name, args.preset, 500).encoder.left_context else (0,)
        rows = [(chunk, 1) for chunk in args.chunk_sizes]
        rows += [(chunk, batch) for batch in args.batch for chunk in args.batch_chunk_size]
        for left, (chunk, streams) in itertools.product(lefts, rows):
            yield Setting(name, left, chunk, streams)


def table(settings: list[Setting], cells: dict[str, Any]) -> str:
    """Step over floor of every setting and runtime, "-" where it has not been measured."""
    titles = [f"{runtime} {precision}" for runtime, precision in RUNTIMES]
    lines = [f"| encoder | left context | chunk | streams | floor ms | {' | '.join(titles)} |"]
    lines.append(f"|---|{'---:|' * (4 + len(RUNTIMES))}")
    for setting in settings:
        found = [cells.get(key(setting, *runtime)) for runtime in RUNTIMES]
        floors = [cell["floor"] for cell in found if cell]
        floor = f"{1e3 * statistics.median(floors):.1f}" if floors else "-"
        ratios = [f"{cell['step'] / cell['floor']:.2f}" if cell else "-" for cell in found]
        lines.append(f"| {' | '.join(map(str, (*setting, floor, *ratios)))} |")
    return "\n".join(lines)


def key(setting: Setting, runtime: str, precision: str) -> str:
    return " ".join(map(str, (*setting, runtime, precision)))


def make_exports(exports: Exports, wanted: list[tuple[Setting, str, str]]) -> int:
    """Those that are not there yet, with the seconds that each takes of the processor."""
    for setting, runtime, precision in wanted:
        start = time.process_time()
        exports.directory(setting, runtime, precision)
        print(f"{key(setting, runtime, precision)}: {time.process_time() - start:.0f} s", flush=True)
    return 0


def main() -> int:
    args = parse_args()
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.ERROR)
    begin, settings = time.perf_counter(), list(all_settings(args))
    exports = Exports(args.work, args.preset, args.int8_signed)
    exports.work.mkdir(parents=True, exist_ok=True)
    file = exports.work / "results.json"
    cells: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    runtimes = [runtime for runtime in RUNTIMES if runtime[0] in args.runtimes.split(",")]
    runtimes = [runtime for runtime in runtimes if "bfloat16" not in runtime or multiplies_bfloat16()]
    wanted = [(setting, *runtime) for setting in settings for runtime in runtimes]
    if args.exports_only:
        return make_exports(exports, [item for item in wanted if item[1] != "torch"])
    missing = [item for item in wanted if key(*item) not in cells]
    with torch.inference_mode():
        for done, (setting, runtime, precision) in enumerate(missing):
            spent = time.perf_counter() - begin
            if spent > args.budget:
                break
            if done:
                left = spent / done * (len(missing) - done)
                print(f"{done}/{len(missing)}, {left:.0f} s left: {key(setting, runtime, precision)}", file=sys.stderr)
            eager = Step(exports.model(setting.encoder).encoder, setting.chunk, setting.left, setting.streams)
            flops = count_flops(eager)
            step = eager if runtime == "torch" else ExportedStep(exports, setting, runtime, precision)
            taken, floor = measure(step, flops, args.seconds)
            cells[key(setting, runtime, precision)] = {"step": taken, "floor": floor, "flops": flops}
            with atomic_write(file) as out:
                json.dump(cells, out)
    print(f"Machine: {machine()}; preset {args.preset}, random weights; step / floor.\n")
    print(table(settings, cells))
    lacking = sum(key(*item) not in cells for item in wanted)
    if lacking:
        print(f"{lacking} of {len(wanted)} cells are still to be measured: start it again", file=sys.stderr)
    return 1 if lacking else 0


if __name__ == "__main__":
    run_main(main)
