"""Why a GPU cannot be used: "auto" falls back and says to what and why, "cuda" is refused, doctor names the reason."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from sammo import doctor, engines
from sammo.device import choose_device, gpu_problem
from sammo.errors import UserError
from sammo.kernels import KERNEL_ENGINES, triton_reason
from sammo.transducer import LOSS_ENGINES

OLD_DRIVER = "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by"
NO_DRIVER = "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU"
OLD_GPU = "GeForce GTX 1080 is sm_61, and this PyTorch is built for sm_75, sm_80, sm_90"


@pytest.fixture
def machine(monkeypatch):
    """A machine with these GPUs, or one where CUDA's initialization fails."""

    def make(*capabilities, error="", cuda="13.0", built=("sm_75", "sm_80", "sm_90")):
        gpus = [SimpleNamespace(major=a, minor=b, name="GeForce GTX 1080", total_memory=2**33) for a, b in capabilities]

        def init():
            if error:
                raise RuntimeError(error)

        replaced = {
            "is_available": lambda: bool(gpus),
            "init": init,
            "device_count": lambda: len(gpus),
            "current_device": lambda: 0,
            "get_device_properties": lambda index: gpus[index],
            "get_arch_list": lambda: list(built),
        }
        for name, value in replaced.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return make


@pytest.mark.parametrize(
    ("options", "problem", "warns"),
    [
        ({"cuda": None}, "this PyTorch is built without CUDA", False),
        ({"error": NO_DRIVER}, "Found no NVIDIA driver on your system", False),
        ({"error": OLD_DRIVER}, f"{OLD_DRIVER.split('. ')[0]}, PyTorch is built for CUDA 13.0", True),
        ({}, "No CUDA GPUs are available", False),
    ],
)
def test_no_gpu(machine, caplog, options, problem, warns):
    machine(**options)
    assert gpu_problem() == problem and choose_device("auto").type == "cpu"
    assert (f"computing on the CPU: {problem}" in caplog.text) == warns
    with pytest.raises(UserError, match="PyTorch sees no GPU here: ") as error:
        choose_device("cuda")
    assert problem in str(error.value)


def test_hidden_gpus(machine, monkeypatch):
    machine()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_problem() == "No CUDA GPUs are available (CUDA_VISIBLE_DEVICES is '')"


def test_a_gpu_of_an_older_architecture(machine, caplog):
    machine((6, 1))
    assert choose_device("auto").type == "cpu" and f"computing on the CPU: {OLD_GPU}" in caplog.text
    with pytest.raises(UserError, match=f"--device cuda: {OLD_GPU}"):
        choose_device("cuda")


@pytest.mark.parametrize(
    ("capability", "built", "runs"),
    [((8, 6), "sm_80", True), ((8, 0), "sm_86", False), ((9, 0), "sm_80", False), ((12, 0), "compute_90", True)],
)
def test_architectures(machine, capability, built, runs):
    machine(capability, built=(built,))
    assert (choose_device("auto").type == "cuda") == runs == (gpu_problem() == "")


def test_doctor_names_the_reason(machine, capsys, monkeypatch):
    machine((6, 1))
    for name in ("_scan", "_delta", "_conv", "_loss", "_step"):
        monkeypatch.setattr(doctor, name, lambda engine, device: [torch.zeros(1)])
    assert doctor.examine() == 0
    output = capsys.readouterr().out
    assert f"no GPU is used: {OLD_GPU}; auto computes on the CPU" in output
    assert "kernel engines on cpu; auto takes torch" in output


@pytest.fixture
def fresh(monkeypatch):
    """Engines that have not been asked for yet."""
    engines.import_reason.cache_clear()
    for known in (KERNEL_ENGINES, LOSS_ENGINES):
        monkeypatch.setattr(known, "_resolved", {})
    yield
    engines.import_reason.cache_clear()


def test_a_triton_that_does_not_import(machine, fresh, monkeypatch, tmp_path):
    machine((9, 0))
    (tmp_path / "triton.py").write_text("raise RuntimeError('libcuda.so cannot\\nbe found')")
    for name in [name for name in sys.modules if name.partition(".")[0] == "triton"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    assert triton_reason() == "triton does not load: libcuda.so cannot be found"
    assert KERNEL_ENGINES.resolve("auto", "cuda") == "torch" and LOSS_ENGINES.resolve("auto", "cuda") in (
        "k2",
        "native",
    )
    with pytest.raises(UserError, match="triton cannot run: triton does not load: .*; use auto or torch"):
        KERNEL_ENGINES.resolve("triton", "cuda")


def test_triton_needs_a_newer_gpu(machine, fresh):
    machine((6, 1), built=("sm_60",))
    assert KERNEL_ENGINES.resolve("auto", "cuda") == "torch"
    assert triton_reason() == "triton needs sm_70 or newer, this GPU is sm_61"
