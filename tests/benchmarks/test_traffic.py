"""benchmarks/traffic.py counts what it should."""

from __future__ import annotations

import pytest
import torch

from benchmarks import traffic
from sammo.fake_cuda import fake_cuda


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
