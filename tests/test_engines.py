"""Engines by name, and the short convolution, which has two."""

from __future__ import annotations

import sys
import types

import pytest
import torch
import torch.nn.functional as F

from sammo.encoder import build_encoder, causal_conv, encoder_config
from sammo.encoder.causal_conv import CONV_ENGINES
from sammo.encoder.ssd import SCAN_ENGINES
from sammo.engines import Engines, anywhere, needs_cuda
from sammo.errors import UserError

TOY = Engines("toy", {"fast": needs_cuda(lambda: ""), "broken": lambda kind: "it is broken", "plain": anywhere})


def test_auto_takes_the_first_that_can_run():
    assert TOY.resolve("auto", "cpu") == "plain"
    assert TOY.resolve("auto", "cuda:1") == TOY.resolve("fast", torch.device("cuda")) == "fast"
    assert TOY.reasons_against("cpu") == {"fast": "needs a CUDA device", "broken": "it is broken", "plain": ""}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fast", "toy engine fast cannot run: needs a CUDA device; use auto or plain"),
        ("broken", "toy engine broken cannot run: it is broken; use auto or plain"),
        ("faster", "unknown toy engine 'faster': choose auto, fast, broken, plain"),
    ],
)
def test_refused(name, message):
    with pytest.raises(UserError) as error:
        TOY.resolve(name, "cpu")
    assert str(error.value) == message


def test_an_encoder_takes_engines_that_run_on_its_device():
    encoder = build_encoder(encoder_config("sammo", "tiny"))
    encoder.set_engines(scan="torch", conv="torch")
    for options, message in (
        ({"scan": "triton"}, "scan engine triton"),
        ({"conv": "causal-conv1d"}, "convolution engine"),
    ):
        with pytest.raises(UserError, match=f"{message}.*needs a CUDA device; use auto or torch"):
            encoder.set_engines(**options)
    mixers = [layer.mixer for stack in encoder.stacks for layer in stack.layers]
    assert {(mixer.scan_engine, mixer.conv_engine) for mixer in mixers} == {("torch", "torch")}


# ------------------------------------------------------------------------------------ convolution


def published_interface(x, weight, bias=None, initial_states=None, activation=None):
    """What causal_conv1d_fn computes, and what its kernels demand of layouts (csrc/causal_conv1d.cpp)."""
    assert activation == "silu" and bias is None
    channels, taps = weight.shape
    assert x.shape[1] == channels and 2 <= taps <= 4
    assert x.stride(1) == 1 and x.stride(2) > 1
    assert channels % 8 == 0 and x.stride(0) % 8 == 0 and x.stride(2) % 8 == 0
    if initial_states is None:
        initial_states = x.new_zeros(len(x), channels, taps - 1)
    else:
        assert initial_states.shape == (len(x), channels, taps - 1)
        assert initial_states.stride(1) == 1 and initial_states.dtype == x.dtype
    padded = torch.cat([initial_states, x], dim=2)
    return F.silu(F.conv1d(padded, weight.unsqueeze(1), groups=channels))


@pytest.fixture
def both(monkeypatch):
    """The convolution of both engines, causal-conv1d's by a stand-in that runs on CPUs."""
    package = types.ModuleType("causal_conv1d")
    vars(package)["causal_conv1d_fn"] = published_interface
    monkeypatch.setitem(sys.modules, "causal_conv1d", package)
    monkeypatch.setattr(
        causal_conv, "CONV_ENGINES", Engines("convolution", {"causal-conv1d": anywhere, "torch": anywhere})
    )
    return lambda x, weight, past: [
        causal_conv.causal_conv(x, weight, past, engine) for engine in ("causal-conv1d", "torch")
    ]


@pytest.mark.parametrize("frames", [0, 1, 2, 3, 50])
@pytest.mark.parametrize("with_past", [False, True])
def test_convolution_engines_agree(both, frames, with_past):
    torch.manual_seed(frames)
    wide = torch.randn(2, frames, 41)  # what the convolution gets is a slice of a projection
    weight, past = torch.randn(24, 1, 4, requires_grad=True), torch.randn(2, 3, 24) if with_past else None
    gradients = []
    (y, last), (expected, expected_last) = both(wide[..., 7:31], weight, past)
    torch.testing.assert_close(y, expected, atol=1e-6, rtol=0)
    assert torch.equal(last, expected_last)
    for out in (y, expected):
        gradients.append(torch.autograd.grad(out.sin().sum(), weight)[0])
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=0)


def test_half_precision_stays():
    y, _ = causal_conv.causal_conv(torch.randn(2, 9, 24, dtype=torch.bfloat16), torch.randn(24, 1, 4), engine="torch")
    assert y.dtype == torch.bfloat16


def test_auto_leaves_what_the_kernels_do_not_take_to_torch(both, monkeypatch):
    monkeypatch.setattr(causal_conv, "_fused", None)  # would fail
    inputs = torch.randn(1, 5, 12), torch.randn(12, 1, 4)
    y, _ = causal_conv.causal_conv(*inputs)
    assert y.shape == (1, 5, 12)
    with pytest.raises(UserError, match="channels in eights"):
        causal_conv.causal_conv(*inputs, engine="causal-conv1d")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_causal_conv1d_on_a_gpu(dtype):
    if not torch.cuda.is_available() or CONV_ENGINES.reasons_against("cuda")["causal-conv1d"]:
        pytest.skip("needs CUDA and causal-conv1d")
    torch.manual_seed(0)
    x, past = torch.randn(3, 200, 400, dtype=dtype), torch.randn(3, 3, 400, dtype=dtype)
    leaves = [t.cuda().requires_grad_() for t in (x, torch.randn(400, 1, 4), past)]
    results = []
    for engine in ("causal-conv1d", "torch"):
        y, last = causal_conv.causal_conv(leaves[0], leaves[1], leaves[2], engine)
        results.append([y, last, *torch.autograd.grad(y.float().sin().sum(), leaves)])
    for one, other in zip(*results):
        assert (one - other).abs().max() <= (1e-5 if dtype == torch.float32 else 2e-2) * other.abs().max()


def test_on_a_cpu_auto_needs_nothing_but_torch():
    assert SCAN_ENGINES.resolve("auto", "cpu") == CONV_ENGINES.resolve("auto", "cpu") == "torch"
