"""benchmarks/traffic.py counts what it should."""

from __future__ import annotations

import pytest
import torch

from benchmarks import traffic
from sammo.encoder.resample import Bypass
from sammo.encoder.ssd import SCAN_ENGINES
from sammo.fake_cuda import fake_cuda
from sammo.kernels import kernel_engine


def counted(run) -> tuple[int, int]:
    found = []
    with fake_cuda() as trace, torch.device("cuda"):
        inputs = torch.randn(8, 16), torch.randn(16, 4)
        trace.on_kernel = lambda *event: found.append(traffic.count(*event))
        run(*inputs)
        trace.on_kernel = None
    return sum(kernels for kernels, _ in found), sum(size for _, size in found)


@pytest.mark.parametrize(
    ("run", "kernels", "values"),
    [
        (lambda a, b: a @ b, 1, 128 + 64 + 32),
        (lambda a, b: a.t()[2:4].unsqueeze(0).expand(3, -1, -1), 0, 0),  # views
        (lambda a, b: a[:1].expand(8, 16) + a, 1, 16 + 128 + 128),
        (lambda a, b: a.mul_(2.0), 1, 128 + 128),
        (lambda a, b: a.copy_(b.view(1, 64).repeat(1, 2).view(8, 16)), 2, 64 + 128 + 128 + 128),
        (lambda a, b: torch.zeros_like(a), 1, 128),
        (lambda a, b: a.device, 0, 0),
        (lambda a, b: torch._foreach_mul_([a, b], 2.0), 1, 2 * (128 + 64)),
    ],
)
def test_counting(run, kernels, values):
    found = counted(run)
    assert found == (kernels, 4 * values), found


@pytest.mark.parametrize(("encoder", "kernels", "gigabytes"), [("sammo", 4700, 111.0), ("zipformer", 4350, 112.0)])
def test_what_a_step_launches_and_moves(encoder, kernels, gigabytes):
    """The medium presets, as in benchmarks/README.md, and by the same means: their comparison is a fair one."""
    missing = SCAN_ENGINES.reasons_against("cuda")["triton"]
    if encoder == "sammo" and missing:
        pytest.skip(missing)
    pytest.importorskip("triton")
    meter = traffic.measure(traffic.parse_args(["--encoder", encoder]))
    found = meter.total()
    makers = "\n".join(map(str, meter.places(20, by_kernel=True, by_count=True)))
    assert found[0] <= kernels and found[1] <= gigabytes, f"{found}\n{makers}"


def test_makers_are_told_apart():
    """A node of a backward pass belongs to the module that made it."""
    with fake_cuda() as trace, torch.device("cuda"):
        meter, module = traffic.Meter(), Bypass(16)
        trace.on_kernel = meter
        with kernel_engine("torch"):
            module.eval()(torch.randn(2, 3, 16), torch.randn(2, 3, 16)).sum().backward()
        trace.on_kernel = None
    places = {place for _, place, _, _ in meter.places(100, by_kernel=True, by_count=True)}
    assert any(place.startswith("encoder/resample.py:Bypass._combine LerpBackward") for place in places), places
    assert any(place == "encoder/resample.py:Bypass._combine  lerp" for place in places), places
