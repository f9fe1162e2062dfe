"""Kernels and bytes of one training step on a GPU, counted without one.

    OMP_NUM_THREADS=1 python benchmarks/traffic.py [--encoder sammo] [--preset medium] [--places 20]

The step runs on fake tensors (:mod:`sammo.fake_cuda`). Every operation counts as the kernels that PyTorch launches for it
as a rule, one for most; each reads its inputs once and writes its outputs once. That leaves out what a matrix product or a
convolution reads again, the conversions of layouts inside cuDNN, and that the L2 cache spares some of it. A step takes at
least bytes / bandwidth; how far it is from that only a GPU can say.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Iterator

sys.path.insert(0, str(Path(__file__).parents[1]))


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="sammo", choices=("sammo", "zipformer"))
    parser.add_argument("--preset", default="medium")
    parser.add_argument("--vocab-size", type=int, default=3266)
    parser.add_argument("--max-duration", type=float, default=650.0, help="seconds of audio in the batch")
    parser.add_argument("--seconds", type=float, default=10.0, help="of its longest utterance")
    parser.add_argument("--symbols-a-second", type=int, default=8)
    parser.add_argument("--chunk-size", type=int, default=32, help="embed frames, -1 for whole utterances")
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp32"))
    parser.add_argument("--kernels", default="auto", choices=("auto", "torch"), help="torch: without sammo/kernels")
    parser.add_argument("--batch", type=int, default=2000, help="batches trained so far, for the schedules")
    parser.add_argument("--seed", type=int, default=0, help="of what acts at random in the step")
    parser.add_argument("--places", type=int, default=0, help="also print so many of the places that move most")
    parser.add_argument("--by-kernel", action="store_true", help="with --places: each kind of kernel for itself")
    parser.add_argument("--by-count", action="store_true", help="with --places: those of most kernels")
    parser.add_argument("--json", type=Path, help="write the table there, too")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    parse_args()  # --help answers before what follows is loaded

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from sammo.fake_cuda import Launch, caller, fake_cuda
from sammo.kernels import kernel_engine
from sammo.regularize import set_batch_count
from sammo.signals import StopRequest
from sammo.training.config import TrainConfig
from sammo.training.distributed import World
from sammo.training.loop import Trainer
from sammo.transducer import Transducer, model_config, pad_tokens

PHASES = ("forward", "loss", "backward", "optimizer")
# Nothing runs, or only the host does.
FREE = {
    "empty",
    "new_empty",
    "empty_like",
    "empty_strided",
    "new_empty_strided",
    "_unsafe_view",
    "lift_fresh",
    "detach",
}
# Read what they pick out of their first argument, not all of it.
PICKS = {"embedding", "index_select", "gather", "index"}
# Read and write what they change in their first argument, not all of it.
PUTS = {"scatter_add_", "index_add_", "index_put_", "_index_put_impl_", "scatter"}
# Read only the shape of their argument.
SHAPED = {"zeros_like", "ones_like", "full_like", "rand_like", "new_zeros", "new_ones", "new_full"}
# Arguments that a kernel of this project reads in rare cases only.
RARELY_READ: dict[str, tuple[str, ...]] = {"_normalizer_kernel": ("lm_ptr", "am_ptr")}
RARELY_READ["_lost_gradient_kernel"] = (
    "weight_ptr",
    "normalizer_ptr",
    "lm_ptr",
    "am_ptr",
    "grad_lm_ptr",
    "grad_am_ptr",
)
FOREACH_TENSORS = (110, 64, 48, 36, 30)  # of a launch, by the number of lists
FOREACH_BLOCKS, FOREACH_CHUNK = 320, 65536


def num_bytes(tensor: Tensor) -> int:
    """Of memory that a tensor covers: an expanded dimension covers none."""
    count = tensor.element_size()
    for size, stride in zip(tensor.shape, tensor.stride()):
        count *= size if stride else min(size, 1)
    return count


def count(func: Any, inputs: Any, outputs: Any) -> tuple[int, int]:
    """(kernels, bytes) of an operation."""
    if isinstance(func, Launch):
        rare = RARELY_READ.get(func.kernel.__name__, ())
        tensors = {name: value for name, value in func.arguments.items() if isinstance(value, Tensor)}
        return 1, sum(num_bytes(value) for name, value in tensors.items() if name not in rare)
    if func.namespace != "aten":  # prim::device, the question on which device a tensor is
        return 0, 0
    name = func.overloadpacket.__name__
    schema = func._schema
    is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns)
    if is_view or name in FREE:
        return 0, 0
    args, kwargs = inputs
    reads = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    changed = [leaf for leaf in tree_leaves(list(_changed(schema, args, kwargs))) if isinstance(leaf, Tensor)]
    writes = changed or [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
    if not any(tensor.is_cuda for tensor in (*reads, *writes)):
        return 0, 0
    read, written = sum(map(num_bytes, reads)), sum(map(num_bytes, writes))
    if name in SHAPED:
        return 1, written
    if name in PICKS:
        return 1, read - num_bytes(reads[0]) + 2 * written
    if name in PUTS:
        source = read - num_bytes(reads[0])
        return 1, 2 * source + (2 * written if not changed else 0)
    if name in ("copy_", "_foreach_copy_", "fill_", "zero_", "uniform_", "normal_", "bernoulli_"):
        read -= written
    if any(target.startswith("out") for target in kwargs):
        read -= written
    if name.startswith("_foreach_"):
        return _foreach_launches(args, kwargs), read + written
    if name == "convolution_backward":
        return sum(kwargs.get("output_mask", args[-1])), read + num_bytes(reads[0]) + written
    return 1, read + written


def _changed(schema: Any, args: Any, kwargs: dict[str, Any]) -> Iterator[Any]:
    in_place = schema.name.endswith("_")  # a list's alias information is not that of its tensors
    for index, argument in enumerate(schema.arguments):
        if (argument.alias_info is not None and argument.alias_info.is_write) or (in_place and index == 0):
            yield args[index] if index < len(args) else kwargs.get(argument.name)


def _foreach_launches(args: Any, kwargs: dict[str, Any]) -> int:
    lists = [value for value in (*args, *kwargs.values()) if isinstance(value, (list, tuple)) and value]
    lists = [value for value in lists if isinstance(value[0], Tensor)]
    tensors = FOREACH_TENSORS[min(len(lists), len(FOREACH_TENSORS)) - 1]
    chunks = sum(-(-tensor.numel() // FOREACH_CHUNK) for tensor in lists[0])
    return max(-(-len(lists[0]) // tensors), -(-chunks // FOREACH_BLOCKS))


class Meter:
    """Adds up by phase and by place in the library."""

    def __init__(self) -> None:
        self.phase = "forward"
        self.kernels: Counter[tuple[str, str]] = Counter()
        self.bytes: Counter[tuple[str, str]] = Counter()

    def __call__(self, func: Any, inputs: Any, outputs: Any) -> None:
        kernels, size = count(func, inputs, outputs)
        if kernels:
            name = func.kernel.__name__ if isinstance(func, Launch) else func.overloadpacket.__name__
            place = f"{caller(qualified=True)}  {name}"
            self.kernels[self.phase, place] += kernels
            self.bytes[self.phase, place] += size

    def total(self, phase: str | None = None) -> tuple[int, float]:
        """(kernels, GB)."""
        sums = [sum(n for (p, _), n in c.items() if phase in (None, p)) for c in (self.kernels, self.bytes)]
        return sums[0], sums[1] / 1e9

    def places(self, number: int, by_kernel: bool, by_count: bool) -> list[tuple[str, str, int, float]]:
        """The largest (phase, place, kernels, GB): with ``by_kernel`` each kind of kernel for itself, ``by_count`` those
        of most kernels instead of most bytes."""
        kernels: Counter[tuple[str, str]] = Counter()
        sizes: Counter[tuple[str, str]] = Counter()
        for (phase, place), value in self.kernels.items():
            key = (phase, place if by_kernel else place.split("  ")[0])
            kernels[key] += value
            sizes[key] += self.bytes[phase, place]
        largest = (kernels if by_count else sizes).most_common(number)
        return [(*key, kernels[key], sizes[key] / 1e9) for key, _ in largest]


def measure(args: argparse.Namespace) -> Meter:
    """One step of the trainer."""
    utterances = max(1, round(args.max_duration / args.seconds))
    frames = int(args.seconds * 100)
    # The shortest of a bucket has nine tenths of the longest.
    lengths = torch.linspace(frames, 0.9 * frames, utterances).long()
    tokens = pad_tokens([[1] * (int(length) * args.symbols_a_second // 100) for length in lengths])
    batch: Any = dict(features=torch.empty(utterances, frames, 80), lengths=lengths, tokens=tokens)
    meter = Meter()
    with ExitStack() as stack:
        trace = stack.enter_context(fake_cuda())
        trace.nonzero_finds = False  # no cell of the simple loss underflows
        stack.enter_context(kernel_engine(args.kernels))
        with torch.device("cuda"):
            sizes = {"chunk_sizes": (args.chunk_size,), "left_context_frames": (128,)}
            model = Transducer(model_config(args.encoder, args.preset, args.vocab_size, **sizes))
        if args.kernels == "torch":
            model.encoder.set_engines(conv="torch")
        config = TrainConfig(precision=args.precision, tensorboard=False, average_period=10**9)
        nothing: Any = None  # a step needs neither data nor tokenizer
        trainer = Trainer(config, model, nothing, nothing, World(device=torch.device("cuda")), StopRequest(), {}, 600.0)
        trainer.guard.skip = lambda *_, **__: None  # what a fake GPU says of its memory is invented
        trainer.batch = args.batch
        set_batch_count(model, args.batch)
        model.train()
        with torch.no_grad():
            trainer.loss(model, batch)  # makes the constants
        random.seed(args.seed)
        _mark_phases(trainer, meter)
        trainer.optimization.optimizer.step()  # makes its state
        trace.on_kernel = meter
        meter.phase = "forward"
        trainer._step(batch)
        trace.on_kernel = None
    return meter


def _mark_phases(trainer: Trainer, meter: Meter) -> None:
    """What the meter sees from here on belongs to the phase that runs."""

    def during(owner: Any, name: str, phase: str) -> None:
        function = getattr(owner, name)

        def run(*args: Any, **kwargs: Any) -> Any:
            before, meter.phase = meter.phase, phase
            try:
                return function(*args, **kwargs)
            finally:
                meter.phase = before

        setattr(owner, name, run)

    during(trainer, "_backward", "backward")
    during(trainer, "loss", "forward")
    during(trainer.model, "loss", "loss")
    during(trainer.optimization.optimizer, "measure", "optimizer")
    during(trainer.optimization.optimizer, "step", "optimizer")


def main() -> None:
    args = parse_args()
    meter = measure(args)
    rows = [(phase, *meter.total(phase)) for phase in PHASES] + [("step", *meter.total())]
    what = f"{args.encoder} {args.preset}, V = {args.vocab_size}, {args.max_duration:g} s, {args.precision}"
    print(f"{what}, kernels: {args.kernels}\n")
    print("| phase | kernels | GB |\n|---|---:|---:|")
    for phase, kernels, size in rows:
        print(f"| {phase} | {kernels} | {size:.1f} |")
    for phase, place, kernels, size in meter.places(args.places, args.by_kernel, args.by_count):
        print(f"{size:8.2f} GB {kernels:6d} kernels  {phase}: {place}")
    if args.json:
        args.json.write_text(json.dumps({phase: dict(kernels=k, gigabytes=size) for phase, k, size in rows}, indent=1))


if __name__ == "__main__":
    main()
