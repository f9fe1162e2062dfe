"""benchmarks/gpu.sh rehearsed on a CPU: every part ends, and the same command does not run it again."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from fixtures.paths import ROOT


@pytest.mark.slow
def test_rehearsal(tmp_path):
    command = [str(ROOT / "benchmarks/gpu.sh"), str(tmp_path), "--device", "cpu", "--preset", "tiny"]
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert set(parts) == {"doctor", "training-12", "tests", "loss", "optimizer", "decoding", "curve"}
    for name, part in parts.items():
        assert part["code"] == 0, (name, (tmp_path / f"{name}.txt").read_text())
    table = (tmp_path / "gpu.md").read_text()
    assert "| training-12 | ok |" in table and "| MFU | padding |" in table
    # The CPU's losses are repeated to the last bit.
    assert table.count("| 1.000 |") == 6
    assert len([line for line in table.splitlines() if "| streams |" in line or "| batch |" in line]) == 8
    again = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert "training" not in again.stdout
