"""The device that --device names, and why it cannot be a GPU."""

from __future__ import annotations

import logging
import os

import torch

from sammo.errors import UserError


def gpu_problem(index: int = 0) -> str:
    """Why PyTorch cannot compute on GPU number ``index`` of this machine, or ""."""
    if not torch.cuda.is_available():
        return _no_gpu()
    if index >= torch.cuda.device_count():
        return f"there are {torch.cuda.device_count()} GPUs"
    gpu, built = torch.cuda.get_device_properties(index), torch.cuda.get_arch_list()
    if built and not any(_runs(name, gpu.major, gpu.minor) for name in built):
        return f"{gpu.name} is sm_{gpu.major}{gpu.minor}, and this PyTorch is built for {', '.join(built)}"
    return ""


def _no_gpu() -> str:
    if torch.version.cuda is None:
        return "this PyTorch is built without CUDA"
    try:
        torch.cuda.init()
        found = "No CUDA GPUs are available"
    except (RuntimeError, AssertionError) as error:  # an old driver, none, or no device
        found = " ".join(str(error).split()).split(". ")[0]
    if "too old" in found:
        found += f", PyTorch is built for CUDA {torch.version.cuda}"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return found + ("" if visible is None else f" (CUDA_VISIBLE_DEVICES is {visible!r})")


def _runs(name: str, major: int, minor: int) -> bool:
    """Whether a GPU of this architecture runs code for "sm_86" (same major version) or "compute_90" (and all later)."""
    kind, _, digits = name.partition("_")
    digits = digits.rstrip("af")
    version = int(digits[:-1]), int(digits[-1:])
    return version <= (major, minor) and (kind == "compute" or version[0] == major)


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of this process for "auto", "cpu" or "cuda".

    "auto" is the CPU where there is no GPU; where there is one that cannot be used, a warning says why.

    Raises:
      UserError: there is no such GPU.
    """
    problem = "" if name == "cpu" else gpu_problem(local_rank)
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        if "too old" in problem:
            logging.warning(f"computing on the CPU: {problem}")
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(f"--device cuda, but PyTorch sees no GPU here: {problem}; sammo doctor says more")
    if local_rank >= torch.cuda.device_count():
        raise UserError(f"process {local_rank} of this machine has no GPU: {problem}")
    if problem and name == "auto":
        logging.warning(f"computing on the CPU: {problem}")
        return torch.device("cpu")
    if problem:
        raise UserError(f"--device cuda: {problem}")
    return torch.device("cuda", local_rank)
