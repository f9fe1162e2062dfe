"""The Triton kernels: their values by Triton's interpreter, and whether they compile for GPUs, without one."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest
import torch
from fixtures.paths import ROOT
from fixtures.training import random_batch, small_config

from sammo.transducer import Transducer

CHECKS = (
    "swooshes",
    "balancers",
    "whitens",
    "limits",
    "norms",
    "additions",
    "bypasses",
    "means",
    "gates",
    "convolutions",
    "chunk_convolutions",
    "log_probabilities",
    "lost_cells",
    "optimizer_steps",
    "whole_steps",
)


def run(script: str, **variables: str) -> str:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-W", "ignore", str(ROOT / "tests" / "fixtures" / script)]
    done = subprocess.run(command, env={**environment, **variables}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_values_interpreted():
    """Outputs and gradients of each kernel against the PyTorch version of it."""
    pytest.importorskip("triton")
    printed = run("kernel_values.py", TRITON_INTERPRET="1")
    assert printed.split() == [word for check in CHECKS for word in (check, "agreed")]


@pytest.mark.slow
def test_kernels_compile():
    """Those of a training step in both precisions, with the types and constants that they are launched with there, and
    the lattice's for every number of symbols up to 1023. Whether they run fast, or at all, only a GPU can show."""
    pytest.importorskip("triton")
    assert run("kernel_compiling.py").split()[-1] == "compiled"


@pytest.mark.gpu
def test_a_training_step_agrees_with_the_cpu(monkeypatch):
    """The whole model, both encoders, forward and backward, float32: the GPU's kernels against PyTorch on the CPU."""
    # What is drawn on the device is not the same on both.
    monkeypatch.setattr("sammo.encoder.zipformer.FEATURE_MASK_PROB", -1.0)
    monkeypatch.setattr("sammo.encoder.encoder.POSITION_DROPOUT", 0.0)
    for name in ("sammo", "zipformer"):
        torch.manual_seed(0)
        model, batch, results = Transducer(small_config(name)), random_batch(0), []
        for device in ("cpu", "cuda"):
            random.seed(0)  # the same Balancers and Whitens act
            model = model.to(device).train()
            model.zero_grad()
            losses = model(batch["features"].to(device), batch["lengths"], batch["tokens"], chunk_size=16)
            (losses.simple + losses.pruned).sum().backward()
            gradients = {key: p.grad.cpu() for key, p in model.named_parameters() if p.grad is not None}
            results.append((losses.simple.cpu(), losses.pruned.cpu(), gradients))
        for one, other in zip(results[0][:2], results[1][:2]):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
        for key, gradient in results[0][2].items():
            distance = (gradient - results[1][2][key]).norm() / gradient.norm().clamp(min=1e-6)
            assert distance < 2e-2, key
