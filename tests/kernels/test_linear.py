"""Linear layers in half precision: values on a CPU, and how many kernels they need on a GPU that there is not."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

from sammo.fake_cuda import fake_cuda
from sammo.kernels import kernel_engine
from sammo.kernels.linear import HalfLinear, Linear, half, half_weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values(dtype):
    """Against float64 on the same rounded weights; the gradient of a weight is not rounded to half precision."""
    torch.manual_seed(0)
    half, wide = torch.bfloat16, torch.float64
    x, weight, bias = torch.randn(4, 9, 24, dtype=dtype), torch.randn(16, 24).to(half).float(), torch.zeros(16)
    x, grad = x.to(half).to(dtype), torch.randn(4, 9, 16).to(half)
    results = []
    for inputs in ((x, weight, bias), (x.to(wide), weight.to(wide), bias.to(wide))):
        inputs = [value.detach().clone().requires_grad_() for value in inputs]
        if inputs[0].dtype == wide:
            output = nn.functional.linear(*inputs)
        else:
            output = HalfLinear.apply(*inputs, weight.to(half), bias.to(half))
        output.backward(grad.to(output.dtype))
        gradients = [value.grad for value in inputs if value.grad is not None]
        assert [gradient.dtype for gradient in gradients] == [value.dtype for value in inputs]
        results.append([output.detach(), *gradients])
    for found, expected in zip(*results):
        assert (found.double() - expected).abs().max() < 8e-3 * expected.abs().max()


def kernels_of_a_step(at_once: bool, engine: str = "auto") -> Counter[str]:
    """Operation -> how often it ran, in a forward and a backward pass of six layers under autocast."""
    found: Counter[str] = Counter()
    with fake_cuda() as trace, torch.device("cuda"), kernel_engine(engine):
        layers = nn.Sequential(*(Linear(32, 32) for _ in range(6)))
        x = torch.randn(8, 32)
        trace.on_kernel = lambda func, *_: found.update([func.overloadpacket.__name__])
        with torch.autocast("cuda", torch.bfloat16), half_weights(layers if at_once else nn.Identity()):
            y = layers(x)
        y.float().sum().backward()
        for p in layers.parameters():
            assert p.grad is not None and p.grad.dtype == torch.float32 and p.grad.shape == p.shape
    return found


def test_weights_are_cast_at_once():
    together, alone, plain = kernels_of_a_step(True), kernels_of_a_step(False), kernels_of_a_step(False, "torch")
    assert together["_foreach_copy_"] == 1 and together["_to_copy"] == 3  # the input, the loss's there and back
    assert alone["_foreach_copy_"] == 0 and alone["_to_copy"] == 3 + 12
    assert plain["_to_copy"] == 3 + 24  # autocast's: there and, of the gradients, back
    assert together["mm"] == alone["mm"] == plain["mm"]


def test_copies_are_aligned():
    """Behind a bias of any length, as of 3266 units: products of matrices that are not take cuBLAS's slow kernels."""
    with fake_cuda(), torch.device("cuda"), torch.autocast("cuda", torch.bfloat16):
        layers = nn.Sequential(Linear(32, 3), Linear(3, 32))
        with half_weights(layers):
            copies = [half(p, torch.bfloat16) for p in layers.parameters()]
    assert all(copy.storage_offset() * copy.element_size() % 128 == 0 for copy in copies)
    assert len({copy.untyped_storage() for copy in copies}) == 1


def test_copies_end_with_the_context():
    """A weight that changes after it is cast anew: nothing is kept that could be out of date."""
    with fake_cuda() as trace, torch.device("cuda"), torch.autocast("cuda", torch.bfloat16):
        layer = Linear(32, 32)
        with half_weights(layer):
            layer(torch.randn(8, 32))
        casts = []
        trace.on_kernel = lambda func, *_: casts.append(func.overloadpacket.__name__)
        layer(torch.randn(8, 32))
    assert casts.count("_to_copy") == 3
