"""What a benchmark ran on, for the line above its table."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def machine(device: torch.device | str = "cpu", threads: int | None = None) -> str:
    """Processor or GPU, threads and PyTorch; ``threads`` where other processes than this one compute."""
    import torch

    if torch.device(device).type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        info = Path("/proc/cpuinfo")
        lines = info.read_text().splitlines() if info.is_file() else []
        names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
        name = next(names, platform.processor() or platform.machine())
        name += f", {threads or torch.get_num_threads()} thread(s)"
    return f"{name}, PyTorch {torch.__version__}"


# FLOP/s of dense products in bf16 or fp16, as their makers say.
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "V100": 125e12, "L40S": 362e12, "A10": 125e12}


def peak_flops(device: torch.device) -> float:
    """Of a GPU that is known; otherwise 0."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((rate for part, rate in PEAKS.items() if part in name), 0.0)
