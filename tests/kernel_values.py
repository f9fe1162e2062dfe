"""Run by test_kernels.py with TRITON_INTERPRET=1: every kernel of sammo/kernels against the PyTorch version, on a CPU."""

from __future__ import annotations

import sys

import torch

from sammo.encoder.causal_conv import causal_conv
from sammo.encoder.convolution import ChunkCausalConv
from sammo.encoder.mixers import recurrent
from sammo.encoder.plan import Plan
from sammo.kernels.balance import balance
from sammo.kernels.causal_conv import SiluConv
from sammo.kernels.chunk_conv import ChunkConv
from sammo.kernels.normalizer import add_lost_gradient, normalizer
from sammo.kernels.norms import BiasNorm, GatedRMSNorm
from sammo.kernels.swoosh import swoosh, swoosh_backward
from sammo.kernels.whiten import edit
from sammo.regularize import activations, gradients, norm

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


def whitens() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        grad, penalty, scale = torch.randn(3, 700).to(dtype), torch.randn(3, 700), torch.tensor(0.7)
        close(edit(grad, penalty, scale, torch.tensor(True)), (grad.float() + 0.7 * penalty).to(dtype))
        assert torch.equal(edit(grad, penalty * INF, scale, torch.tensor(False)), grad)


def same_gradients(fused, plain, *inputs) -> None:
    """Outputs and gradients of two functions; those of the inputs that are floating-point tensors."""
    results = []
    for function in (fused, plain):
        leaves = [x.detach().clone().requires_grad_() if isinstance(x, torch.Tensor) else x for x in inputs]
        output = function(*leaves)
        torch.manual_seed(1)
        output.backward(torch.randn(output.shape).to(output.dtype))
        results.append([output.detach(), *(leaf.grad for leaf in leaves if isinstance(leaf, torch.Tensor))])
    for found, expected in zip(*results):
        close(found, expected)


def norms() -> None:
    for shape, dtype in (((2, 30, 48), torch.float32), ((3, 7, 5), torch.float32), ((2, 700, 16), torch.bfloat16)):
        x = torch.randn(shape).to(dtype)
        inputs = x, torch.randn(shape[-1]), torch.tensor(0.3)
        same_gradients(BiasNorm.apply, norm._BiasNorm.apply, *inputs)
        plain = recurrent.GatedRMSNorm(shape[-1])

        def gated(y, wide, weight):
            return torch.func.functional_call(plain, {"weight": weight}, (y, wide[..., : y.shape[-1]]))

        def fused(y, wide, weight):
            return GatedRMSNorm.apply(y, wide[..., : y.shape[-1]], weight, recurrent.NORM_EPS)

        if dtype == torch.float32:  # in half precision the PyTorch version rounds in between
            same_gradients(fused, gated, x, torch.randn(*shape[:2], 2 * shape[-1]), torch.rand(shape[-1]) + 0.5)


def convolutions() -> None:
    for frames, channels, taps, with_past, with_bias in (
        (70, 80, 4, False, False),
        (33, 8, 4, True, True),
        (2, 5, 4, True, False),
        (40, 3, 1, False, True),
        (31, 4, 2, True, False),
    ):
        x, weight = torch.randn(2, frames, 2 * channels), torch.randn(channels, 1, taps)
        past = torch.randn(2, taps - 1, channels) if with_past else None
        bias = torch.randn(channels) if with_bias else None
        same_gradients(
            lambda x, *rest: SiluConv.apply(x[..., :channels], *rest),
            lambda x, weight, past, bias: causal_conv(x[..., :channels], weight, past, "torch", bias)[0],
            x, weight, past, bias,
        )  # fmt: skip


def chunk_convolutions() -> None:
    for frames, channels, kernel, chunk, ends in (
        (24, 5, 5, 8, None),
        (70, 3, 5, 70, None),
        (8, 34, 3, 2, None),
        (9, 3, 5, 9, (9, 6, 2)),
    ):
        conv = ChunkCausalConv(channels, kernel)
        torch.nn.init.normal_(conv.edge_scale)
        ends = None if ends is None else torch.tensor(ends)
        plan = Plan(frames, chunk, chunk, 0, ends=ends)
        weights = {name: parameter.detach() for name, parameter in conv.named_parameters()}
        names = ("causal.weight", "causal.bias", "within.weight", "within.bias", "edge_scale")
        x = torch.randn(3, frames, channels)
        if ends is not None:
            x = x * (torch.arange(frames) < ends[:, None])[..., None]
        same_gradients(
            lambda x, *weights: ChunkConv.apply(x, *weights, chunk, ends),
            lambda x, *weights: torch.func.functional_call(conv, dict(zip(names, weights)), (x, plan))[0],
            x, *(weights[name] for name in names),
        )  # fmt: skip


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
    for check in (swooshes, balancers, whitens, norms, convolutions, chunk_convolutions, lost_cells):
        if len(sys.argv) < 2 or check.__name__ in sys.argv[1:]:
            check()
            print(check.__name__, "agreed")
