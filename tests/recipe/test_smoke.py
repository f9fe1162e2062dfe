"""The main job, every stage of it, on next to no data; run a second time it finds everything done."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.paths import ROOT


@pytest.mark.slow
def test_run_sh_smoke_and_again(tmp_path):
    if Path(sys.prefix) != ROOT / ".venv":
        pytest.skip("run.sh uses .venv: run the tests by ./test.sh")
    command = [str(ROOT / "run.sh"), "--smoke", "--work-dir", str(tmp_path)]
    for again in (False, True):
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=1800, env={**os.environ, "OMP_NUM_THREADS": "2"}
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        last = done.stdout.splitlines()
        for kind in ("table", "csv", "figure", "state figure"):
            [line] = [line for line in last if line.startswith(f"{kind}: ")]
            assert (ROOT / line.split(": ")[1]).stat().st_size > 0
    assert "Sammo, d_state" in done.stdout and "Zipformer, left 128" in done.stdout
    assert "all 1 epochs are done" in done.stderr and "batch 1/" not in done.stderr


def test_run_sh_refuses_bad_options():
    for options in (["--preset", "huge"], ["--hours", "many"], ["--epochs"], ["--what"], ["--epochs", "0"]):
        done = subprocess.run([str(ROOT / "run.sh"), *options], capture_output=True, text=True)
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
        assert done.stderr.startswith("error: ")
