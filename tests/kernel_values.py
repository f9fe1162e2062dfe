"""Run by test_kernels.py with TRITON_INTERPRET=1: every kernel of sammo/kernels against the PyTorch version, on a CPU."""

from __future__ import annotations

import sys

import torch

from sammo.kernels.balance import balance
from sammo.kernels.normalizer import add_lost_gradient, normalizer
from sammo.kernels.swoosh import swoosh, swoosh_backward
from sammo.regularize import activations, gradients

INF = float("inf")


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    """Relative to the largest value; half precision may round the last digit otherwise."""
    tolerance = max(tolerance, {torch.bfloat16: 8e-3, torch.float16: 1e-3}.get(expected.dtype, 0.0))
    assert found.dtype == expected.dtype and found.shape == expected.shape, (found.dtype, found.shape, expected.shape)
    error = (found.double() - expected.double()).abs().max() / expected.double().abs().max().clamp(min=1e-20)
    assert error <= tolerance, f"{error:.1e} > {tolerance:.1e}"


def swooshes() -> None:
    for constants in (activations.SWOOSH_L, activations.SWOOSH_R):
        for shape, masked, dtype in (
            ((2, 9, 40), True, torch.float32),
            ((3, 1, 5), True, torch.bfloat16),
            ((2, 3, 4, 7), False, torch.float32),
            ((1, 600, 3), False, torch.bfloat16),
        ):
            x = (torch.randn(shape) * 8).to(dtype)
            x.view(-1)[:2] = torch.tensor([60.0, -60.0])
            mask = (torch.rand(shape[0], 1, shape[-1]) > 0.3).to(dtype) * 1.25 if masked else None
            grad = torch.randn(shape).to(dtype)
            expected = activations._swoosh(x, *constants, mask)
            close(swoosh(x, activations.SLOPE, *constants, mask), expected)
            x_grad, y = swoosh_backward(x, grad, activations.SLOPE, *constants, mask)
            close(y, expected)
            close(x_grad, activations._swoosh_backward(x, grad, *constants, mask)[0])
    last = torch.randn(2, 4, 5, 6).contiguous(memory_format=torch.channels_last)
    found, _ = swoosh_backward(last, torch.ones(2, 4, 5, 6), activations.SLOPE, 1.0, 0.0, with_y=False)
    close(found, activations._swoosh_backward(last, torch.ones(2, 4, 5, 6), 1.0, 0.0)[0])


def balancers() -> None:
    limits = (gradients._mean_of_share(0.3), gradients._mean_of_share(0.7), 0.2, 1.5)
    for shape, channel_dim in (((3, 50, 70), 2), ((2, 6, 30, 9), 1), ((40, 5), 1)):
        channels = shape[channel_dim]
        around = [1] * len(shape)
        around[channel_dim] = channels
        # Channels that break each limit, one that is constant and one that is zero.
        shift = torch.linspace(-3, 3, channels).view(around)
        size = torch.logspace(-2, 1, channels).view(around)
        x = torch.randn(shape) * size + shift
        x.select(channel_dim, 0).fill_(0.0)
        x.select(channel_dim, 1).fill_(0.5)
        grad = torch.randn(shape)
        direction = gradients._balance_direction(x, channel_dim, limits, 0.04)
        expected = torch.addcmul(grad, grad.abs(), direction)
        close(balance(x, grad, channel_dim, limits, 0.04, gradients.TINY), expected)
        wide = torch.cat([x, x], dim=-1).bfloat16()
        part = wide[..., : shape[-1]]  # a view, as half of a projection
        direction = gradients._balance_direction(part.float(), channel_dim, limits, 0.04)
        expected = torch.addcmul(grad, grad.abs(), direction)
        close(balance(part, grad, channel_dim, limits, 0.04, gradients.TINY), expected)


def lost_cells() -> None:
    lm, am = torch.randn(2, 5, 90), torch.randn(2, 40, 90)
    lm[0, 2, 3], am[0, 7:9, 50] = 300.0, 300.0  # what they favor lies too far apart for products of exponentials
    lm_top, am_top = lm.amax(2, keepdim=True), am.amax(2, keepdim=True)
    product = (lm - lm_top).exp() @ (am - am_top).exp().transpose(1, 2)
    smallest = torch.finfo(torch.float32).tiny * 1e8
    assert 0 < (product < smallest).sum() < 10
    found = normalizer(product, lm, am, lm_top, am_top, smallest)
    close(found, (lm[:, :, None] + am[:, None]).logsumexp(3))
    assert (product == INF).sum() == 2
    weight = torch.randn(2, 5, 40)
    share = (lm[:, :, None] + am[:, None]).softmax(3) * (weight * (product == INF))[..., None]
    grad_lm, grad_am = torch.ones_like(lm), torch.ones_like(am)
    add_lost_gradient(grad_lm, grad_am, product, weight, found, lm, am)
    close(grad_lm, 1 + share.sum(2))
    close(grad_am, 1 + share.sum(1))


if __name__ == "__main__":
    torch.manual_seed(0)
    for check in (swooshes, balancers, lost_cells):
        if len(sys.argv) < 2 or check.__name__ in sys.argv[1:]:
            check()
            print(check.__name__, "agreed")
