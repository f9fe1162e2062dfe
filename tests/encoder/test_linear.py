"""The arranged linear layer and the one-chunk convolution give what the plain ones give."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sammo.cpu import convolution, linear
from sammo.encoder.convolution import ChunkCausalConv
from sammo.encoder.plan import Plan


@pytest.mark.parametrize("shape", [(1, 4, 192), (3, 7, 192), (2, 50, 192), (100, 192), (2, 5, 9, 192), (0, 4, 192)])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_linear(shape, bias):
    torch.manual_seed(0)
    x, weight = torch.randn(shape), torch.randn(256, 192)
    offset = torch.randn(256) if bias else None
    torch.testing.assert_close(linear(x, weight, offset), F.linear(x, weight, offset), atol=1e-4, rtol=1e-4)
    apart = torch.randn(*shape[:-1], 400)[..., 100:292]
    torch.testing.assert_close(linear(apart, weight, offset), F.linear(apart, weight, offset), atol=1e-4, rtol=1e-4)


def test_a_changed_weight_is_packed_again():
    x, weight = torch.randn(80, 64), torch.nn.Parameter(torch.randn(32, 64))
    with torch.no_grad():
        for change in (lambda: None, lambda: weight.mul_(2), lambda: setattr(weight, "data", torch.randn(32, 64))):
            change()
            torch.testing.assert_close(linear(x, weight), F.linear(x, weight), atol=1e-4, rtol=1e-4)


def test_training_is_plain():
    x, weight = torch.randn(80, 64), torch.randn(32, 64, requires_grad=True)
    out = linear(x, weight)
    assert torch.equal(out, F.linear(x, weight))
    out.sum().backward()
    assert weight.grad is not None


@torch.no_grad()
def test_recorded_graphs_hold_plain_operations():
    layer = torch.nn.Linear(64, 32).requires_grad_(False)

    class Module(torch.nn.Module):
        def forward(self, x):
            return linear(x, layer.weight, layer.bias)

    graph = str(torch.jit.trace(Module(), torch.randn(80, 64)).inlined_graph)
    assert "mkldnn" not in graph and "aten::linear" in graph


@pytest.mark.parametrize(("frames", "kernel"), [(4, 15), (8, 15), (16, 31), (32, 31), (32, 7), (1, 3)])
@pytest.mark.parametrize("batch", [1, 3])
@torch.no_grad()
def test_one_chunk_convolution(frames, kernel, batch, monkeypatch):
    torch.manual_seed(0)
    conv = ChunkCausalConv(12, kernel)
    conv.edge_scale.normal_()
    plan = Plan(frames, frames, frames, 0)
    x, past = torch.randn(batch, frames, 12), torch.randn(batch, kernel // 2, 12)
    for state in (past, None):
        few, next_few = conv(x, plan, state)
        with monkeypatch.context() as patch:
            patch.setattr(convolution, "FEW_PRODUCTS", 0)
            many, next_many = conv(x, plan, state)
        torch.testing.assert_close(few, many, atol=1e-5, rtol=1e-5)
        assert next_few is next_many is None or torch.equal(next_few, next_many)
