"""sweep_chunks.sh with stand-ins for the GPUs and for decode.py: each run has one GPU of those that it may use."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from fixtures.paths import ROOT


@pytest.mark.parametrize(("visible", "used"), [("2,3", {"2", "3"}), (None, {"0", "1", "2", "3"}), ("", {"none"})])
def test_gpus(tmp_path, visible, used):
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    for name, text in (
        ("nvidia-smi", 'for i in 0 1 2 3; do echo "GPU $i: H100"; done'),
        ("python", f'[ "$1" = -m ] || echo "${{CUDA_VISIBLE_DEVICES:-none}}" >> {tmp_path}/used; sleep 0.2'),
    ):
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "exp").mkdir()
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": str(tmp_path / "python")}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    if visible is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible
    sweep = ROOT / "egs/csj/ASR/sammo/sweep_chunks.sh"
    options = ["--exp-dirs", "exp", "--chunk-sizes", "16,32,64,128", "--methods", "greedy_search fast_beam_search"]
    subprocess.run(["bash", sweep, *options], cwd=tmp_path, env=environment, check=True, capture_output=True)
    lines = (tmp_path / "used").read_text().split()
    assert len(lines) == 8 and set(lines) == used
