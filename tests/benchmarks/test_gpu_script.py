"""benchmarks/gpu.sh rehearsed on a CPU: every part ends, and the same command does not run it again."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from fixtures.paths import ROOT


@pytest.mark.slow
def test_rehearsal(tmp_path):
    command = [
        str(ROOT / "benchmarks/gpu.sh"),
        str(tmp_path),
        "--device",
        "cpu",
        "--preset",
        "tiny",
        "--seconds",
        "3000",
    ]
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


STUBBORN = """#!/usr/bin/env bash
case "$*" in
  *doctor*) [ -e "$FREE" ] || { trap : TERM && while :; do sleep 1; done; } ;;
  *gpu_report*) exec "$REAL" "$@" ;;
esac
"""


@pytest.mark.slow
def test_what_does_not_end_is_ended_and_begun_again(tmp_path):
    """In the time that there is, also a part that does not want to; the next call does it and the others."""
    python, free, out = tmp_path / "python", tmp_path / "free", tmp_path / "out"
    python.write_text(STUBBORN)
    python.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(python), "REAL": sys.executable, "FREE": str(free)}
    command = [str(ROOT / "benchmarks/gpu.sh"), str(out), "--seconds"]
    done = subprocess.run([*command, "11"], env=environment, check=True, capture_output=True, text=True, timeout=300)
    assert "doctor: not done in 11 s; the next call goes on" in done.stdout and not list(out.glob("*.code"))
    free.touch()
    done = subprocess.run([*command, "300"], env=environment, check=True, capture_output=True, text=True, timeout=300)
    assert {path.stem for path in out.glob("*.code")} > {"doctor", "training-650", "training-2600", "curve"}
    assert re.search(r"--max-duration 2600 --steps 12 --max-seconds 2\d\d\n", done.stdout)
