"""What holds for any input: extreme logits, half precision, odd shapes; engines; the Triton kernels."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from fixtures.paths import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from sammo.transducer import (
    LOSS_ENGINES,
    full_loss,
    mutual_information,
    prune_ranges,
    pruned_loss,
    smoothed_loss,
)


def batch(seed, n=3, t=12, s=6, v=10, scale=1.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    boundary = torch.zeros(n, 4, dtype=torch.int64)
    boundary[:, 2] = torch.randint(0, s + 1, (n,), generator=generator)
    boundary[:, 3] = torch.randint(1, t + 1, (n,), generator=generator)
    boundary[0, 2:] = torch.tensor([s, t])
    lm = (scale * torch.randn(n, s + 1, v, generator=generator)).to(dtype).requires_grad_()
    am = (scale * torch.randn(n, t, v, generator=generator)).to(dtype).requires_grad_()
    return lm, am, torch.randint(1, v, (n, s), generator=generator), boundary


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 20),
    st.integers(0, 20),
    st.integers(2, 8),
    st.sampled_from([0.1, 1.0, 10.0]),
)
def test_ranges_always_leave_an_alignment(seed, t, s, size, scale):
    lm, am, symbols, boundary = batch(seed, t=t, s=s, scale=scale)
    _, occupation = smoothed_loss(lm, am, symbols, boundary, engine="native")
    ranges = prune_ranges(*occupation, boundary, size)
    width = ranges.shape[2]
    assert width <= s + 1
    begin = ranges[:, :, 0]
    assert (ranges == begin[:, :, None] + torch.arange(width)).all()
    assert ranges.min() >= 0 and ranges.max() <= s and (begin[:, 0] == 0).all()
    steps = begin.diff(dim=1)
    assert (steps >= 0).all() and (steps < max(width, 2)).all()
    logits = torch.randn(*ranges.shape, lm.shape[2])
    assert torch.isfinite(pruned_loss(logits, symbols, ranges, boundary, engine="native")).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(0, 9))
def test_wide_ranges_prune_nothing(seed, t, s):
    lm, am, symbols, boundary = batch(seed, t=t, s=s)
    _, occupation = smoothed_loss(lm, am, symbols, boundary, engine="native")
    ranges = prune_ranges(*occupation, boundary, s + 2)
    logits = torch.randn(3, t, s + 1, 10)
    torch.testing.assert_close(
        pruned_loss(logits, symbols, ranges, boundary, engine="native"),
        full_loss(logits, symbols, boundary, engine="native"),
    )


@pytest.mark.parametrize("scale", [50.0, 1e3, 1e6])
@pytest.mark.parametrize("lm_scale, am_scale", [(0.0, 0.0), (0.25, 0.1)])
def test_extreme_logits(scale, lm_scale, am_scale):
    """Against float64 and the sums of logits themselves, where the exponentials underflow."""
    lm, am, symbols, boundary = batch(1, scale=scale)
    loss, occupation = smoothed_loss(lm, am, symbols, boundary, lm_scale=lm_scale, am_scale=am_scale, engine="native")
    grads = torch.autograd.grad(loss.sum(), [lm, am])
    assert torch.isfinite(loss).all() and all(torch.isfinite(grad).all() for grad in grads)
    if am_scale == 0.0:
        wide_lm, wide_am = (x.detach().double().requires_grad_() for x in (lm, am))
        logits = wide_am[:, :, None] + wide_lm[:, None]
        expected = full_loss(logits, symbols, boundary, engine="native")
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-3)
        if scale == 50.0:
            for grad, wide in zip(grads, torch.autograd.grad(expected.sum(), [wide_lm, wide_am])):
                torch.testing.assert_close(grad.double(), wide, rtol=1e-3, atol=1e-3)
    ranges = prune_ranges(*occupation, boundary, 3)
    logits = (scale * torch.randn(*ranges.shape, 10)).requires_grad_()
    loss = pruned_loss(logits, symbols, ranges, boundary, engine="native")
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    assert torch.isfinite(loss).all() and torch.isfinite(grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_half_precision_is_computed_in_float32(dtype, scale):
    lm, am, symbols, boundary = batch(2, scale=scale, dtype=dtype)
    loss, occupation = smoothed_loss(lm, am, symbols, boundary, lm_scale=0.25, engine="native")
    expected, _ = smoothed_loss(lm.float(), am.float(), symbols, boundary, lm_scale=0.25, engine="native")
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)
    ranges = prune_ranges(*occupation, boundary, 4)
    logits = (scale * torch.randn(*ranges.shape, 10)).to(dtype).requires_grad_()
    pruned = pruned_loss(logits, symbols, ranges, boundary, engine="native")
    torch.testing.assert_close(pruned, pruned_loss(logits.detach().float(), symbols, ranges, boundary, engine="native"))
    grads = torch.autograd.grad((loss + pruned).sum(), [lm, am, logits])
    assert all(grad.dtype == dtype and torch.isfinite(grad).all() for grad in grads)


def test_padding_does_not_matter():
    """Whatever is beyond an utterance's symbols and frames, it has neither influence nor gradient."""
    lm, am, symbols, boundary = batch(3)
    boundary[1] = torch.tensor([0, 0, 3, 7])
    outcomes = []
    for fill in (0.0, 7.0):
        lm2, am2, symbols2 = lm.detach().clone(), am.detach().clone(), symbols.clone()
        lm2[1, 4:], am2[1, 7:], symbols2[1, 3:] = fill, fill, int(fill)
        lm2.requires_grad_(), am2.requires_grad_()
        loss, occupation = smoothed_loss(lm2, am2, symbols2, boundary, lm_scale=0.25, engine="native")
        grads = torch.autograd.grad(loss.sum(), [lm2, am2])
        assert grads[0][1, 4:].count_nonzero() == grads[1][1, 7:].count_nonzero() == 0
        outcomes.append((loss, *occupation, *grads))
    for one, other in zip(*outcomes):
        assert torch.equal(one, other)


def test_an_utterance_without_alignment_leaves_the_others_alone():
    px, py = torch.randn(2, 3, 6), torch.randn(2, 4, 5)
    px[0, 1] = -float("inf")
    px.requires_grad_(), py.requires_grad_()
    scores, occupation = mutual_information(px, py, engine="native")
    assert scores[0] == -float("inf") and torch.isfinite(scores[1])
    grads = torch.autograd.grad(scores[1], [px, py])
    for occupied, grad in zip(occupation, grads):
        assert occupied[0].count_nonzero() == grad[0].count_nonzero() == 0
        assert torch.equal(occupied[1], grad[1])
    no_frames = torch.tensor([[0, 0, 3, 0], [0, 0, 3, 5]])
    loss, _ = smoothed_loss(torch.randn(2, 4, 5), torch.randn(2, 5, 5), torch.ones(2, 3).long(), no_frames)
    assert loss[0] == float("inf") and torch.isfinite(loss[1])


def test_occupation_adds_up():
    """Each frame is left once, each symbol emitted once."""
    lm, am, symbols, boundary = batch(4, t=40, s=15)
    _, occupation = smoothed_loss(lm, am, symbols, boundary, engine="native")
    for n, (_, _, s, t) in enumerate(boundary.tolist()):
        torch.testing.assert_close(occupation.py[n].sum(0)[:t], torch.ones(t))
        torch.testing.assert_close(occupation.px[n].sum(1)[:s], torch.ones(s))


def test_overwritten_logits_cannot_be_used_twice():
    _, _, symbols, boundary = batch(5)
    logits = torch.randn(3, 12, 7, 10, requires_grad=True) * 1.0
    ranges = torch.arange(7).expand(3, 12, 7)
    loss = pruned_loss(logits, symbols, ranges, boundary, engine="native", overwrite_logits=True).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_recursion_of_half_precision_is_float32():
    px, py = torch.randn(2, 30, 201).half(), torch.randn(2, 31, 200).half()
    scores, occupation = mutual_information(px - 20, py - 20, engine="native")
    assert scores.dtype == occupation.px.dtype == torch.float32
    expected, _ = mutual_information((px - 20).float(), (py - 20).float(), engine="native")
    assert torch.equal(scores, expected)


def test_empty_batch():
    px, py = torch.zeros(0, 3, 6), torch.zeros(0, 4, 5)
    assert mutual_information(px, py, engine="native")[0].shape == (0,)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="must be"):
        mutual_information(torch.zeros(2, 3, 5), torch.zeros(2, 4, 5))
    with pytest.raises(ValueError, match="boundary"):
        mutual_information(torch.zeros(2, 3, 6), torch.zeros(2, 4, 5), torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="prune_range"):
        prune_ranges(torch.zeros(2, 3, 6), torch.zeros(2, 4, 5), torch.zeros(2, 4, dtype=torch.int64), 1)


# ------------------------------------------------------------------------------------ engines


def test_engines():
    reasons = LOSS_ENGINES.reasons_against("cpu")
    assert list(reasons) == ["k2", "triton", "native"] and reasons["native"] == ""
    assert LOSS_ENGINES.resolve("auto", "cpu") == ("native" if reasons["k2"] else "k2")


def test_k2_engine_agrees():
    reason = LOSS_ENGINES.reasons_against("cpu")["k2"]
    if reason:
        pytest.skip(reason)
    compare_engines("k2", "cpu")


def compare_engines(engine, device):
    for dtype in (torch.float32, torch.float64):
        lm, am, symbols, boundary = (x.detach().to(device) for x in batch(6, n=4, t=50, s=20, dtype=dtype))
        results = []
        for name in (engine, "native"):
            loss, occupation = smoothed_loss(lm, am, symbols, boundary, lm_scale=0.25, engine=name)
            ranges = prune_ranges(*occupation, boundary, 5)
            logits = torch.randn(*ranges.shape, 10, generator=torch.Generator().manual_seed(0), dtype=dtype)
            logits = logits.to(device).requires_grad_()
            pruned = pruned_loss(logits, symbols, ranges, boundary, engine=name)
            results.append((loss, *occupation, pruned, *torch.autograd.grad(pruned.sum(), logits)))
        for one, other in zip(*results):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-5)


INTERPRETED = """
import torch
from sammo.transducer.lattice import RECURSIONS
torch.manual_seed(0)
inf = float("inf")
px, py = torch.randn(4, 5, 9) - 1, torch.randn(4, 6, 8) - 1
px[1, 1:3, :4] = py[1, 3, 2:5] = -inf      # as pruned
px[2] = -inf                                # no alignment
cases = [
    (px, py, None),
    (px, py, torch.tensor([[0, 0, 5, 8], [0, 0, 5, 8], [1, 2, 4, 6], [2, 3, 2, 3]])),
    (px.transpose(1, 2).contiguous().transpose(1, 2), py, torch.tensor([[0, 0, 0, 3], [0, 1, 3, 1]] * 2)),
    (px[:, :0], py[:, :1], None),
    (px.double(), py.double(), None),
    (px * 1e4, py * 1e4, None),
]
for px, py, boundary in cases:
    expected, actual = (RECURSIONS[name](px, py, boundary) for name in ("native", "triton"))
    torch.testing.assert_close(actual[0], expected[0], atol=1e-4, rtol=1e-5)
    possible = (expected[0] > -inf)[:, None, None]
    for one, other in zip(actual[1:], expected[1:]):
        torch.testing.assert_close(one * possible, other * possible, atol=1e-4, rtol=0)
print("agreed")
"""


def test_triton_kernels_interpreted():
    """On a CPU, by Triton's interpreter."""
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", INTERPRETED], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and "agreed" in done.stdout, done.stderr


COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from sammo.transducer import lattice_triton
for kernel in (lattice_triton._forward_kernel, lattice_triton._backward_kernel):
    types = {name: "*fp32" if name.endswith("_ptr") else "i32" for name in kernel.arg_names}
    types.update(boundary_ptr="*i64", BLOCK="constexpr")
    source = ASTSource(kernel, signature=types, constexprs={"BLOCK": 64})
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
print("compiled")
"""


def test_triton_kernels_compile():
    """For a GPU, without one."""
    pytest.importorskip("triton")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run([sys.executable, "-c", COMPILED], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "compiled" in done.stdout, done.stderr


@pytest.mark.gpu
def test_triton_engine_agrees_on_a_gpu():
    compare_engines("triton", "cuda")


@pytest.mark.gpu
def test_gpu_agrees_with_the_cpu():
    lm, am, symbols, boundary = batch(8, n=4, t=60, s=25, v=50)
    outcomes = []
    for device in ("cpu", "cuda"):
        lm2, am2 = (x.detach().to(device).requires_grad_() for x in (lm, am))
        loss, _ = smoothed_loss(lm2, am2, symbols.to(device), boundary.to(device), lm_scale=0.25, am_scale=0.1)
        outcomes.append([loss.cpu(), *(grad.cpu() for grad in torch.autograd.grad(loss.sum(), [lm2, am2]))])
    for one, other in zip(*outcomes):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-5)
