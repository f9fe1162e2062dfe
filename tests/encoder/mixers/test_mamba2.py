"""Mamba-2 against mamba-ssm's own numbers, and against itself cut anywhere."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.paths import REFERENCE, ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from sammo.encoder import build_encoder, encoder_config, ssd
from sammo.encoder.mixers.mamba2 import Mamba2
from sammo.optim import ScaledAdam

TF32 = 2e-3  # relative to the largest value: what the kernels' products on a GPU cost


def load(name: str) -> tuple[dict[str, torch.Tensor], dict]:
    arrays = np.load(REFERENCE / name)
    meta = json.loads(bytes(arrays["meta"]))
    return {k: torch.from_numpy(arrays[k]) for k in arrays.files if k != "meta"}, meta


def close(actual, expected, atol=1e-4):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


def block_of(ref, meta) -> Mamba2:
    block = Mamba2(meta["d_model"], meta["d_inner"], meta["d_state"], meta["headdim"], meta["d_conv"])
    block.load_state_dict({k[2:]: v for k, v in ref.items() if k.startswith("w/")})
    return block.eval()


def scan_of_reference(case, scan, device="cpu", dtype=torch.float32):
    """(what, found, expected) of outputs, state and gradients of ``scan`` on the reference's inputs."""
    ref, _ = load("ssd_scan.npz")
    names = ["x", "dt", "A", "B", "C", "D", "dt_bias"] + ["initial_state"] * (case == "with_init")
    inputs = [ref[name].to(device, dtype, copy=True).requires_grad_() for name in names]
    y, final = scan(*inputs)
    y.backward(ref["gy"].to(device, dtype))
    found = {"y": y, "final_state": final, **{f"g_{name}": value.grad for name, value in zip(names, inputs)}}
    return [(name, value.cpu().to(torch.float32), ref[f"{case}/{name}"]) for name, value in found.items()]


# In float32 the sums over a block of 64, which nothing uses, would be off by 1.1e-4.
@pytest.mark.parametrize("block, dtype", [*((size, torch.float32) for size in (8, 16, 32)), (64, torch.float64)])
@pytest.mark.parametrize("case", ["zero_init", "with_init"])
def test_scan_and_its_gradients_are_the_originals(case, block, dtype, monkeypatch):
    monkeypatch.setattr(ssd, "BLOCK", block)
    monkeypatch.setattr(ssd, "BLOCKS_PER_RUN", 3)
    for _, found, expected in scan_of_reference(case, partial(ssd.ssd_scan, engine="torch"), dtype=dtype):
        close(found, expected)


def test_block_and_its_gradients_are_the_originals():
    ref, meta = load("mamba2_block.npz")
    block = block_of(ref, meta)
    u = ref["u"].clone().requires_grad_()
    y, _ = block(u)
    close(y, ref["y"])
    y.backward(ref["gy"])
    close(u.grad, ref["g_u"])
    for name, weight in block.named_parameters():
        close(weight.grad, ref[f"g_w/{name}"])


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 150), max_size=4), groups=st.sampled_from([1, 2]))
def test_cutting_a_sequence_anywhere_changes_nothing(cuts, groups):
    torch.manual_seed(0)
    block = Mamba2(d_model=12, d_inner=16, d_state=8, head_dim=4, groups=groups)
    u = torch.randn(2, 150, 12)
    whole, last = block(u)
    state, pieces = block.init_state(2), []
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), 150]):
        piece, state = block(u[:, start:stop], state=state)
        pieces.append(piece)
    close(torch.cat(pieces, dim=1), whole, atol=1e-5)
    for a, b in zip(state, last):
        close(a, b, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 2, 31, 32, 33, 1024, 1025, 2500])
def test_scan_is_the_recurrence(frames):
    torch.manual_seed(frames)
    num, heads, width, size = 1, 2, 3, 4
    x, dt = torch.randn(num, frames, heads, width).double(), torch.randn(num, frames, heads).double()
    B, C = torch.randn(2, num, frames, 1, size).double()
    A, D, bias = -torch.rand(heads).double(), torch.randn(heads).double(), torch.randn(heads).double()
    y, final = ssd.ssd_scan(x, dt, A, B, C, D, bias)
    step = torch.nn.functional.softplus(dt + bias)
    h, expected = torch.zeros(num, heads, width, size).double(), []
    for t in range(frames):
        decay = torch.exp(step[:, t] * A)[..., None, None]
        h = decay * h + (step[:, t, :, None] * x[:, t])[..., None] * B[:, t, :, None]
        expected.append((h * C[:, t, :, None]).sum(-1) + D[:, None] * x[:, t])
    torch.testing.assert_close(y, torch.stack(expected, dim=1))
    torch.testing.assert_close(final, h)


def test_large_decays_stay_finite():
    x = torch.randn(1, 100, 2, 4, requires_grad=True)
    dt = torch.full((1, 100, 2), 80.0, requires_grad=True)
    B, C = torch.randn(2, 1, 100, 1, 4)
    y, _ = ssd.ssd_scan(x, dt, torch.tensor([-16.0, -1e4]), B, C, torch.ones(2), torch.zeros(2))
    y.sum().backward()
    assert y.isfinite().all() and x.grad.isfinite().all() and dt.grad.isfinite().all()


def test_half_precision_input_keeps_a_float32_state():
    block = Mamba2(d_model=8, d_inner=8, d_state=4, head_dim=4)
    u = torch.randn(2, 50, 8)
    exact, _ = block(u)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, state = block(u)
    assert state.ssm.dtype == torch.float32
    torch.testing.assert_close(y.float(), exact, atol=0.03, rtol=0.1)


INTERPRETED = """
import contextlib, types
import torch
from triton.runtime.autotuner import Autotuner

# What the kernels ask of a GPU, and one configuration each: to tune, they would have to be timed.
torch.cuda.device = lambda index: contextlib.nullcontext()
torch.cuda.get_device_properties = lambda device: types.SimpleNamespace(multi_processor_count=4)
make = Autotuner.__init__
Autotuner.__init__ = lambda self, fn, names, configs, *rest, **more: make(self, fn, names, configs[-1:], *rest, **more)

from sammo.encoder import ssd
ssd.TRITON_CHUNK = 64
kernel, reason = ssd._load_triton()
assert not reason, reason
import test_mamba2
for case in ("zero_init", "with_init"):
    scan = lambda *inputs: ssd._scan_triton(*inputs, *[None] * (8 - len(inputs)))
    for _, found, expected in test_mamba2.scan_of_reference(case, scan):
        test_mamba2.close(found, expected)
print("agreed")
"""


def test_kernels_interpreted():
    """mamba-ssm's kernels, called as on a GPU, against the reference: on a CPU, by Triton's interpreter."""
    for package in ("triton", "einops", "mamba_ssm"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests", Path(__file__).parent)))
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path}
    command = [sys.executable, "-W", "ignore", "-c", INTERPRETED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "agreed" in done.stdout, done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("case", ["zero_init", "with_init"])
def test_kernels_against_the_reference(case):
    needs_kernels()
    for name, found, expected in scan_of_reference(case, partial(ssd.ssd_scan, engine="triton"), "cuda"):
        assert (found - expected).abs().max() <= TF32 * expected.abs().max(), name


def needs_kernels():
    reason = "no GPU" if not torch.cuda.is_available() else ssd.SCAN_ENGINES.reasons_against("cuda")["triton"]
    if reason:
        pytest.skip(reason)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_agree_with_the_torch_engine(dtype):
    needs_kernels()
    torch.manual_seed(0)
    N, T, H, P, S = 3, 700, 12, 16, 128
    x, dt = torch.randn(N, T, H, P), torch.randn(N, T, H)
    B, C = torch.randn(2, N, T, 1, S)
    A, D, bias = -torch.rand(H) * 15 - 1, torch.randn(H), torch.randn(H) - 4
    state = torch.randn(N, H, P, S)
    args = [t.cuda().requires_grad_() for t in (x.to(dtype), dt, A, B.to(dtype), C.to(dtype), D, bias, state)]
    twins = [t.detach().clone().requires_grad_() for t in args]
    y, final = ssd.ssd_scan(*args, engine="triton")
    y_ref, final_ref = ssd.ssd_scan(*twins, engine="torch")
    grad = torch.randn_like(y)
    y.backward(grad)
    y_ref.backward(grad)
    tolerance = 2e-2 if dtype == torch.bfloat16 else TF32
    for a, b in [(y, y_ref), (final, final_ref), *((a.grad, b.grad) for a, b in zip(args, twins))]:
        assert (a - b).abs().max() <= tolerance * b.abs().max()


@pytest.mark.parametrize("factor", [1, 4])
def test_time_constants_at_the_start_are_seconds(factor):
    """Spread log-uniformly between the bounds, in seconds, whatever the stack's frame rate."""
    encoder = build_encoder(
        encoder_config("sammo", "tiny", mamba_time_constants=(0.04, 4.0), downsampling=(1, factor, 4, 2))
    )
    seconds = encoder.time_constants()[1].sort().values
    steps = seconds.log().diff()
    torch.testing.assert_close(seconds[[0, -1]], torch.tensor([0.04, 4.0]), rtol=1e-4, atol=0)
    torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=1e-3, atol=1e-4)


def test_mamba_ssms_own_start():
    encoder = build_encoder(encoder_config("sammo", "tiny", mamba_time_constants=()))
    frames = encoder.stacks[0].layers[0].mixer.time_constants()
    assert frames.min() > 0.5 and frames.max() < 1100


def test_training_leaves_the_time_constants_alone():
    """ScaledAdam's own step, in proportion to the size of dt_bias and A_log, halves them within some steps."""
    changes = {}
    for scale in (None, 0.03):
        torch.manual_seed(0)
        block = Mamba2(d_model=8, d_inner=16, d_state=4, head_dim=4, time_constants=(2.0, 200.0))
        before = block.time_constants()
        named = list(block.named_parameters())
        optimizer = ScaledAdam(named, lr=0.03, plain_lr_scale=scale and dict.fromkeys(block.dynamics, scale))
        for _ in range(20):
            for _, p in named:
                p.grad = torch.ones_like(p)
            optimizer.step()
        changes[scale] = (block.time_constants() / before).log().abs().max()
    assert changes[None] > 1.0 and changes[0.03] < 0.05


def test_untuned_kernels_have_one_configuration():
    """Within only; and Triton is asked to keep which of them is the fastest."""
    if ssd._load_triton()[0] is None:
        pytest.skip("needs mamba-ssm")
    modules = [module for name, module in sys.modules.items() if name.startswith("mamba_ssm.ops.triton.ssd_")]
    kernels = [kernel for module in modules for kernel in vars(module).values() if hasattr(kernel, "configs")]
    before = [len(kernel.configs) for kernel in kernels]
    assert min(before) > 1 and all(kernel.cache_results for kernel in kernels)
    with ssd.untuned():
        assert {len(kernel.configs) for kernel in kernels} == {1}
    assert [len(kernel.configs) for kernel in kernels] == before
