"""``sammo doctor``: what is installed, which engines "auto" takes, and whether each gives the right numbers."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import random
from typing import Callable

import torch
from torch import Tensor

from sammo.device import gpu_problem
from sammo.encoder.causal_conv import CONV_ENGINES, causal_conv
from sammo.encoder.mixers.gated_delta import DELTA_ENGINES, gated_delta_rule
from sammo.encoder.ssd import SCAN_ENGINES, ssd_scan, untuned
from sammo.kernels import KERNEL_ENGINES, kernel_engine
from sammo.transducer import LOSS_ENGINES, Transducer, full_loss, model_config, pad_tokens

PACKAGES = (
    "torch",
    "torchaudio",
    "lhotse",
    "k2",
    "mamba-ssm",
    "causal-conv1d",
    "fla-core",
    "sherpa-onnx",
    "onnxruntime",
)
# Largest deviation from the reference engine, relative to its largest value. The Triton scan
# multiplies in TF32 on the GPUs that have it.
TOLERANCE = {"torch": 1e-5, "native": 1e-5, "causal-conv1d": 1e-5, "k2": 1e-4, "triton": 5e-3, "fla": 3e-2}
TOLERANCE["kernel"] = 2e-2  # of a whole step, whose matrix products are TF32's


def examine(device: str | None = None) -> int:
    """Prints what is installed and how each engine does; 1 if one that can run fails or gives wrong numbers.

    Args:
      device: where to try them; None: a GPU if there is one.
    """
    device = device or ("cpu" if gpu_problem() else "cuda")
    print(f"python {platform.python_version()} on {platform.machine()}, {torch.get_num_threads()} threads")
    for name in PACKAGES:
        print(f"{name:15} {_version(name)}")
    print(f"CUDA            {torch.version.cuda or 'not in this torch'}; {torch.cuda.device_count()} GPUs")
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        print(f"  GPU {index}         {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, sm_{gpu.major}{gpu.minor}")
    if problem := gpu_problem():
        print(f"  no GPU is used: {problem}; auto computes on the CPU")
    failed = False
    operations = ((SCAN_ENGINES, _scan), (DELTA_ENGINES, _delta), (CONV_ENGINES, _conv), (LOSS_ENGINES, _loss))
    for engines, attempt in (*operations, (KERNEL_ENGINES, _step)):
        print(f"\n{engines.operation} engines on {device}; auto takes {engines.resolve('auto', device)}")
        reference = None
        # The reference runs first: the engine that needs nothing but PyTorch.
        for engine, reason in reversed(engines.reasons_against(device).items()):
            if reason:
                print(f"  {engine:13} cannot run: {reason}")
                continue
            tolerance = TOLERANCE.get(engines.operation, TOLERANCE[engine])
            verdict, reference, wrong = _try(attempt, engine, device, reference, tolerance)
            failed |= wrong
            print(f"  {engine:13} {verdict}")
    return int(failed)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _try(
    attempt: Callable[[str, str], list[Tensor]],
    engine: str,
    device: str,
    reference: list[Tensor] | None,
    tolerance: float,
) -> tuple[str, list[Tensor] | None, bool]:
    try:
        with untuned():
            values = attempt(engine, device)
    except Exception as error:  # whatever an optional engine throws is the finding
        return f"FAILS: {type(error).__name__}: {' '.join(str(error).split())[:200]}", reference, True
    if reference is None:
        return "runs (the reference)", values, False
    worst = max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-6)) for a, b in zip(values, reference))
    wrong = not worst <= tolerance
    verdict = "WRONG" if wrong else "runs"
    return f"{verdict}: deviates by {worst:.1e} (at most {tolerance:.0e})", reference, wrong


def _grad(x: Tensor) -> Tensor:
    assert x.grad is not None, "an input has no gradient"
    return x.grad


def _scan(engine: str, device: str) -> list[Tensor]:
    """Output, state and gradients of a small scan."""
    draw = torch.Generator().manual_seed(0)
    num, frames, heads, width, size = 2, 300, 4, 16, 64
    x = torch.randn(num, frames, heads, width, generator=draw)
    dt = torch.randn(num, frames, heads, generator=draw)
    B, C = torch.randn(2, num, frames, 1, size, generator=draw)
    A = -torch.rand(heads, generator=draw) - 0.5
    D, bias = torch.randn(2, heads, generator=draw)
    state = torch.randn(num, heads, width, size, generator=draw)
    inputs = [t.to(device).detach().requires_grad_() for t in (x, dt, A, B, C, D, bias - 3, state)]
    y, final = ssd_scan(*inputs, engine=engine)
    (y.sin().sum() + final.sum()).backward()
    return [y.detach(), final.detach(), *map(_grad, inputs)]


def _delta(engine: str, device: str) -> list[Tensor]:
    """Output, state and gradients of a small gated delta rule, in half precision on a GPU: its kernels take no other."""
    draw = torch.Generator().manual_seed(0)
    num, frames, heads, width = 2, 300, 4, 16
    q, k, v = torch.randn(3, num, frames, heads, width, generator=draw)
    beta, decay = torch.rand(2, num, frames, heads, generator=draw)
    state = torch.randn(num, heads, width, width, generator=draw)
    q, k = (torch.nn.functional.normalize(x, dim=-1) for x in (q, k))
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    inputs = [x.to(device, dtype) for x in (q, k, v, beta)] + [-decay.to(device), state.to(device)]
    inputs = [x.detach().requires_grad_() for x in inputs]
    o, final = gated_delta_rule(*inputs, engine=engine)
    (o.float().sin().sum() + final.sum()).backward()
    return [x.detach().float() for x in (o, final, *map(_grad, inputs))]


def _conv(engine: str, device: str) -> list[Tensor]:
    """Output, next past and gradients of a short convolution."""
    draw = torch.Generator().manual_seed(0)
    shapes = ((2, 100, 24), (24, 1, 4), (2, 3, 24))
    x, weight, past = (torch.randn(shape, generator=draw).to(device).requires_grad_() for shape in shapes)
    y, last = causal_conv(x, weight, past, engine)
    y.sin().sum().backward()
    return [y.detach(), last.detach(), *map(_grad, (x, weight, past))]


def _step(engine: str, device: str) -> list[Tensor]:
    """Losses and all gradients of a small Sammo in training, every regularizer drawn alike."""
    torch.manual_seed(0)
    features, lengths = torch.randn(3, 207, 80).to(device), torch.tensor([207, 180, 90])
    model = Transducer(model_config("sammo", "tiny", 50)).to(device).train()
    torch.manual_seed(0)
    random.seed(0)
    with kernel_engine(engine):
        losses = model(features, lengths, pad_tokens([[3, 4, 5, 6], [7, 8], []]), chunk_size=16)
        (losses.simple + losses.pruned).sum().backward()
    gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return [losses.simple.detach(), losses.pruned.detach(), gradients]


def _loss(engine: str, device: str) -> list[Tensor]:
    """Loss and gradient of a small lattice."""
    draw = torch.Generator().manual_seed(0)
    num, frames, symbols, vocab = 3, 40, 9, 17
    logits = torch.randn(num, frames, symbols + 1, vocab, generator=draw).to(device).requires_grad_()
    targets = torch.randint(1, vocab, (num, symbols), generator=draw).to(device)
    boundary = torch.tensor([[0, 0, 9, 40], [0, 0, 5, 33], [0, 0, 0, 12]], device=device)
    loss = full_loss(logits, targets, boundary=boundary, engine=engine)
    loss.sum().backward()
    return [loss.detach(), _grad(logits)]
