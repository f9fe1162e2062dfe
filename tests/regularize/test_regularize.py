"""Regularizers against values computed by the original implementation, and their own rules."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from fixtures.paths import REFERENCE

from sammo.encoder.convolution import ChunkCausalConv
from sammo.encoder.plan import Plan
from sammo.regularize import (
    ActivationDropoutLinear,
    Balancer,
    BiasNorm,
    PiecewiseLinear,
    ScheduledFloat,
    SharedDropout,
    Whiten,
    limit_param_value,
    load_regularizer_state,
    penalize_abs_values_gt,
    regularizer_state,
    set_batch_count,
    swoosh_l,
    swoosh_r,
)

Z = np.load(REFERENCE / "regularizers.npz")
META = json.loads(bytes(Z["meta"]))
TOLERANCE = 1e-5


def ref(name: str) -> torch.Tensor:
    return torch.from_numpy(Z[name])


def run(module) -> tuple[torch.Tensor, torch.Tensor]:
    x = ref("x").clone().requires_grad_()
    y = module(x)
    y.backward(ref("gy"))
    assert x.grad is not None
    return y.detach(), x.grad


def close(ours: torch.Tensor | None, name: str) -> None:
    assert ours is not None
    torch.testing.assert_close(ours, ref(name), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name, function, shift", [("SwooshL", swoosh_l, 4), ("SwooshR", swoosh_r, 1)])
def test_swoosh(name, function, shift):
    y, gx = run(function)
    close(y, f"{name}/y")
    x, gy = ref("x"), ref("gy")
    torch.testing.assert_close(gx, gy * (torch.sigmoid(x - shift) - 0.08), atol=1e-6, rtol=1e-6)
    # The original keeps the derivative in 8 bits, rounded up or down at random: the exact one is
    # always less than one step away from the reference, and on average not away at all.
    step = 1.005 / 255
    steps = (ref(f"{name}/gx") - gx) / (gy * step)
    assert steps.abs().max() < 1 + 1e-3
    assert steps.mean().abs() < 0.05


@pytest.mark.parametrize("function", [swoosh_l, swoosh_r])
def test_swoosh_gradient_is_exact(function):
    x = torch.linspace(-15, 15, 40, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, x)


def test_swoosh_half_precision_is_computed_wide():
    x = torch.linspace(-20, 20, 101)
    y = swoosh_l(x.half())
    assert y.dtype == torch.float16
    torch.testing.assert_close(y.float(), swoosh_l(x.half().float()).half().float())


def test_activation_dropout_linear():
    torch.manual_seed(0)
    module = ActivationDropoutLinear(6, 5, "SwooshL", dropout=0.4)
    module.double()
    x = torch.randn(2, 7, 6, dtype=torch.float64, requires_grad=True)

    def plain(x, mask):
        return torch.nn.functional.linear(swoosh_l(x) * mask, module.linear.weight, module.linear.bias)

    torch.manual_seed(1)
    y = module(x)
    torch.manual_seed(1)
    mask = SharedDropout(0.4, 1).mask(x)
    assert mask is not None and mask.shape == (2, 1, 6) and set(mask.unique().tolist()) <= {0.0, 1 / 0.6}
    wanted = plain(x, mask)
    torch.testing.assert_close(y, wanted)
    gy = torch.randn_like(y)
    sources = [x, module.linear.weight, module.linear.bias]
    for ours, theirs in zip(torch.autograd.grad(y, sources, gy), torch.autograd.grad(wanted, sources, gy)):
        torch.testing.assert_close(ours, theirs)
    module.eval()
    with torch.no_grad():
        torch.testing.assert_close(module(x), plain(x, torch.ones(1)))


def test_bias_norm():
    norm = BiasNorm(16)
    with torch.no_grad():
        norm.bias.copy_(ref("BiasNorm/bias"))
        norm.log_scale.copy_(ref("BiasNorm/log_scale"))
    norm.eval()
    y, gx = run(norm)
    close(y, "BiasNorm/y")
    close(gx, "BiasNorm/gx")
    close(norm.bias.grad, "BiasNorm/gbias")
    torch.testing.assert_close(norm.log_scale.grad, ref("BiasNorm/glog_scale"), atol=1e-5, rtol=1e-6)
    with torch.no_grad():
        close(norm(ref("x")), "BiasNorm/y")


def test_balancer():
    y, gx = run(Balancer(16, -1, prob=1.0, **META["balancer"]))
    close(y, "Balancer/y")
    close(gx, "Balancer/gx")


def test_balancer_other_channel_dim():
    balancer = Balancer(16, 1, prob=1.0, **META["balancer"])
    x = ref("x").transpose(1, 2).contiguous().requires_grad_()
    balancer(x).backward(ref("gy").transpose(1, 2))
    assert x.grad is not None
    close(x.grad.transpose(1, 2), "Balancer/gx")


def test_balancer_constant_channel_is_finite():
    x = torch.zeros(10, 4, requires_grad=True)
    Balancer(4, prob=1.0)(x).sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()


@pytest.mark.parametrize("key, name", [("whiten_g2", "Whiten_g2"), ("whiten_g1", "Whiten_g1")])
def test_whiten(key, name):
    settings = META[key]
    whiten = Whiten(settings["num_groups"], settings["whitening_limit"], (1.0, 1.0), settings["grad_scale"])
    y, gx = run(whiten)
    close(y, f"{name}/y")
    close(gx, f"{name}/gx")
    assert whiten.exceeded


def test_whiten_leaves_white_data_alone_and_looks_less_often():
    whiten = Whiten(1, 5.0, (0.0, 1.0))
    x = torch.randn(1000, 8, requires_grad=True)
    whiten(x).sum().backward()
    assert (x.grad == 1).all()
    assert regularizer_state(whiten) == {"": False}
    assert whiten(x) is x
    load_regularizer_state(whiten, {"": True})
    assert whiten(x) is not x


def test_penalty():
    _, gx = run(lambda x: penalize_abs_values_gt(x, META["penalize"]["limit"], META["penalize"]["penalty"]))
    close(gx, "penalize/gx")


def test_piecewise_linear():
    schedule = PiecewiseLinear(*map(tuple, META["schedule"]))
    ours = [schedule(x) for x in Z["PiecewiseLinear/x"]]
    np.testing.assert_allclose(ours, Z["PiecewiseLinear/y"], atol=1e-12)
    with pytest.raises(ValueError):
        PiecewiseLinear((1.0, 0.0), (1.0, 1.0))


def test_scheduled_float():
    value = ScheduledFloat((0.0, 0.2), (100.0, 0.0), default=0.7)
    assert float(value) == 0.7
    holder = torch.nn.ModuleList([value])
    set_batch_count(holder, 50)
    assert float(value) == pytest.approx(0.1)
    set_batch_count(holder, 1e9)
    assert float(value) == 0.0
    holder.eval()
    assert float(value) == 0.7


def test_limit_param_value_turns_gradients_round():
    x = torch.tensor([-2.0, -2.0, 0.0, 2.0, 2.0], requires_grad=True)
    limit_param_value(x, -1.0, 1.0, prob=1.0).backward(torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0]))
    assert x.grad is not None and x.grad.tolist() == [-1.0, -1.0, 1.0, 1.0, 1.0]


def test_decisions_come_from_python_random():
    balancer = Balancer(4, prob=0.5)
    x = torch.randn(3, 4, requires_grad=True)
    random.seed(3)
    first = [balancer(x) is x for _ in range(50)]
    random.seed(3)
    assert first == [balancer(x) is x for _ in range(50)]
    assert 5 < sum(first) < 45
    balancer.eval()
    assert all(balancer(x) is x for _ in range(20))


def conv_reference() -> ChunkCausalConv:
    conv = ChunkCausalConv(16, META["kernel_size"])
    names = {
        "edge_scale": "chunkwise_conv_scale",
        "causal.weight": "causal_conv.weight",
        "causal.bias": "causal_conv.bias",
        "within.weight": "chunkwise_conv.weight",
        "within.bias": "chunkwise_conv.bias",
    }
    conv.load_state_dict({ours: ref(f"ChunkConv/w/{theirs}") for ours, theirs in names.items()})
    return conv


def one_chunk(frames: int, chunk: int) -> Plan:
    return Plan(frames, chunk, frames, 0)


@pytest.mark.parametrize("grad", [False, True])
def test_chunk_causal_conv(grad):
    conv, x = conv_reference(), ref("ChunkConv/x").transpose(1, 2)
    with torch.set_grad_enabled(grad):
        y, _ = conv(x, one_chunk(27, 27))
        torch.testing.assert_close(y.transpose(1, 2), ref("ChunkConv/y_full"), atol=TOLERANCE, rtol=0)
        padded = torch.nn.functional.pad(x, (0, 0, 0, 5))
        y, _ = conv(padded, one_chunk(32, 8))
        torch.testing.assert_close(y[:, :27].transpose(1, 2), ref("ChunkConv/y_chunk8"), atol=TOLERANCE, rtol=0)


def test_chunk_causal_conv_streaming_step():
    conv, x = conv_reference(), ref("ChunkConv/x").transpose(1, 2)
    with torch.no_grad():
        whole, _ = conv(x[:, :24], one_chunk(24, 8))
        past, outputs = torch.zeros(2, 3, 16), []
        for start in range(0, 24, 8):
            y, past = conv(x[:, start : start + 8], one_chunk(8, 8), past)
            outputs.append(y)
            if start == 0:
                close(y.transpose(1, 2), "ChunkConv/stream_y")
                close(past.transpose(1, 2), "ChunkConv/stream_cache")
    torch.testing.assert_close(torch.cat(outputs, 1), whole, atol=1e-6, rtol=0)


def test_depthwise_gradient():
    conv = conv_reference().double()
    x = torch.randn(2, 10, 16, dtype=torch.float64, requires_grad=True)
    plan = one_chunk(10, 5)
    assert torch.autograd.gradcheck(lambda x, *_: conv(x, plan)[0], (x, *conv.parameters()))
