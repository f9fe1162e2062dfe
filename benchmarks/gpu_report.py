"""gpu.json and gpu.md from the parts that gpu.sh has run: python benchmarks/gpu_report.py OUT"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch


def gpu_name() -> str:
    """What the numbers are of."""
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"


def report(out: Path) -> None:
    """Each part's exit status, seconds, command and the tables or last lines that it printed."""
    parts = {}
    for path in sorted(out.glob("*.code"), key=lambda path: path.stat().st_mtime):
        code, seconds, command = path.read_text().strip().split(" ", 2)
        lines = path.with_suffix(".txt").read_text(errors="replace").splitlines()
        table = [line for line in lines if line.startswith("|")]
        parts[path.stem] = dict(code=int(code), seconds=int(seconds), command=command, lines=table or lines[-40:])
    (out / "gpu.json").write_text(json.dumps({"gpu": gpu_name(), "torch": torch.__version__, "parts": parts}, indent=1))
    rows = [f"{gpu_name()}, PyTorch {torch.__version__}", "", "| part | result | seconds |", "|---|---|---:|"]
    rows += [f"| {name} | {'ok' if not p['code'] else p['code']} | {p['seconds']} |" for name, p in parts.items()]
    for name, p in parts.items():
        rows += ["", f"{name}:", ""] + (p["lines"] if p["lines"][:1] and p["lines"][0].startswith("|") else [])
    (out / "gpu.md").write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    report(Path(sys.argv[1]))
