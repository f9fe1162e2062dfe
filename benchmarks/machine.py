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
