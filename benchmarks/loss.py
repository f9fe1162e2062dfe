#!/usr/bin/env python3
"""Time and peak memory of the transducer loss, forward and backward, against other implementations.

Each row runs in a process of its own. Inputs are logits (random, float32): (N, T, S + 1, V) for a
full loss, (N, T, R, V) for a pruned one, with (N, T, V) and (N, S + 1, V) for the simple loss that
finds the R positions. Time is the least of some runs; on one CPU thread it is processor time, which
other work on the machine disturbs less. Memory is what the run adds to the inputs at its peak,
gradients included. Rows of packages that are not installed are left out.

    python benchmarks/loss.py --threads 1
    python benchmarks/loss.py --device cuda
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# Row -> (what it needs, what it stands for).
ROWS = {
    "torchaudio": ("torchaudio", "torchaudio.functional.rnnt_loss, full"),
    "full": (None, "sammo, full"),
    "k2": ("k2", "k2, simple + ranges + pruned"),
    "k2-simple": ("k2", "k2, simple alone"),
    "k2-pruned": ("k2", "k2, pruned alone"),
    "sammo": (None, "sammo, simple + ranges + pruned"),
    "sammo-simple": (None, "sammo, simple alone"),
    "sammo-pruned": (None, "sammo, pruned alone"),
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--symbols", type=int, default=60)
    parser.add_argument("--vocab-sizes", type=int, nargs="+", default=[500, 3266])
    parser.add_argument("--prune-range", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--engine", default="native", help="of sammo's recursion: native, triton or k2")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--max-seconds", type=float, default=20.0, help="of runs per row; one run at least")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--row", choices=list(ROWS), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # --help answers before what follows is loaded

import torch
from machine import machine

from sammo.transducer import full_loss, prune_ranges, pruned_loss, smoothed_loss

LM_SCALE = 0.25
PASSED_ON = (
    "batch_size", "frames", "symbols", "prune_range", "device", "engine", "threads", "repeats", "max_seconds",
)  # fmt: skip


def make_run(row: str, args: argparse.Namespace) -> Callable[[], None]:
    """Inputs on the device, and one forward and backward pass over them."""
    torch.manual_seed(0)
    n, t, s, v = args.batch_size, args.frames, args.symbols, args.vocab_size
    device = torch.device(args.device)
    symbols = torch.randint(1, v, (n, s), device=device)
    boundary = torch.tensor([0, 0, s, t], device=device).repeat(n, 1)

    def logits(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, v, device=device).requires_grad_()

    if row in ("torchaudio", "full"):
        joint = logits(n, t, s + 1)
        if row == "full":
            return lambda: backward(full_loss(joint, symbols, boundary, engine=args.engine), joint)
        from torchaudio.functional import rnnt_loss

        targets, frames, counts = symbols.int(), boundary[:, 3].int(), boundary[:, 2].int()
        return lambda: backward(rnnt_loss(joint, targets, frames, counts, blank=0, reduction="none"), joint)

    lm, am, joint = logits(n, s + 1), logits(n, t), logits(n, t, args.prune_range)
    library = "k2" if row.startswith("k2") else "sammo"

    def simple() -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        if library == "sammo":
            return smoothed_loss(lm, am, symbols, boundary, lm_scale=LM_SCALE, engine=args.engine)
        import k2

        return k2.rnnt_loss_smoothed(
            lm, am, symbols, 0, lm_only_scale=LM_SCALE, am_only_scale=0.0,
            boundary=boundary, reduction="none", return_grad=True,
        )  # fmt: skip

    def pruned(ranges: torch.Tensor) -> torch.Tensor:
        if library == "sammo":
            # As the model calls it: on logits that are no leaf and that nothing else reads.
            return pruned_loss(
                joint.view_as(joint), symbols, ranges, boundary, engine=args.engine, overwrite_logits=True
            )
        import k2

        return k2.rnnt_loss_pruned(joint, symbols, ranges, 0, boundary, reduction="none")

    def find(occupation: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        if library == "sammo":
            return prune_ranges(*occupation, boundary, args.prune_range)
        import k2

        return k2.get_rnnt_prune_ranges(*occupation, boundary, args.prune_range)

    if row.endswith("simple"):
        return lambda: backward(simple()[0], lm, am)
    if row.endswith("pruned"):
        begin = torch.linspace(0, s + 1 - args.prune_range, t, device=device).long()
        ranges = (begin[:, None] + torch.arange(args.prune_range, device=device)).repeat(n, 1, 1)
        return lambda: backward(pruned(ranges), joint)

    def both() -> None:
        loss, occupation = simple()
        backward(0.5 * loss + pruned(find(occupation)), lm, am, joint)

    return both


def backward(loss: torch.Tensor, *leaves: torch.Tensor) -> None:
    torch.autograd.grad(loss.sum(), leaves)


def measure(row: str, args: argparse.Namespace) -> dict[str, float]:
    """{"ms", "mb"} of one row, in this process."""
    cuda = args.device.startswith("cuda")
    small = argparse.Namespace(**{**vars(args), "batch_size": 2, "frames": 8, "symbols": 6, "vocab_size": 10})
    make_run(row, small)()  # what is loaded or compiled at the first call is not counted
    run = make_run(row, args)
    if cuda:
        torch.cuda.synchronize()
    before = start_peak(cuda)
    clock = time.process_time if args.threads == 1 and not cuda else time.perf_counter
    times = []
    while len(times) < args.repeats and sum(times) < args.max_seconds:
        start = clock()
        run()
        if cuda:
            torch.cuda.synchronize()
        times.append(clock() - start)
    return {"ms": 1000 * min(times), "mb": (peak_bytes(cuda) - before) / 2**20}


def start_peak(cuda: bool) -> int:
    """Begin to watch for a peak; bytes in use now."""
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return status_bytes("VmRSS")
    except OSError:  # not Linux, or not allowed: the peak so far stands for now
        return peak_bytes(cuda)


def peak_bytes(cuda: bool) -> int:
    if cuda:
        return torch.cuda.max_memory_allocated()
    if Path("/proc/self/status").exists():
        return status_bytes("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    if args.row:
        args.vocab_size = args.vocab_sizes[0]
        print(json.dumps(measure(args.row, args)))
        return
    print(
        f"N={args.batch_size}, T={args.frames}, S={args.symbols}, prune range {args.prune_range}, "
        f"forward and backward, float32; {machine(args.device, args.threads)}; engine {args.engine}"
    )
    for vocab_size in args.vocab_sizes:
        print(f"\n| V = {vocab_size} | ms | of torchaudio | of k2 | added at peak, MB |")
        print("|---|---:|---:|---:|---:|")
        results = {}
        for row in args.rows:
            needs, title = ROWS[row]
            if needs and importlib.util.find_spec(needs) is None:
                continue
            command = [sys.executable, __file__, "--row", row, "--vocab-sizes", str(vocab_size)]
            for option in PASSED_ON:
                command += ["--" + option.replace("_", "-"), str(getattr(args, option))]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
                print(f"| {title} | failed: {last[:80]} | | | |", flush=True)
                continue
            result = results[row] = json.loads(done.stdout.strip().splitlines()[-1])
            print(
                f"| {title} | {result['ms']:.0f} | {share(result, results.get('torchaudio'))} | "
                f"{share(result, results.get('k2' + row.removeprefix('sammo')))} | {result['mb']:.0f} |",
                flush=True,
            )


def share(result: dict[str, float], other: dict[str, float] | None) -> str:
    return f"{result['ms'] / other['ms']:.3f}" if other else "-"


if __name__ == "__main__":
    main()
