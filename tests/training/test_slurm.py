"""The job script with stand-ins for Slurm's commands: it saves and requeues on the time limit, and only then."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fixtures.training import ROOT

SCRIPT = ROOT / "egs/csj/ASR/sammo/slurm/train.sbatch"

# srun starts the processes of one node and fails with the first that fails.
COMMANDS = {
    "srun": r"""
echo "${@:1:4}" > srun-options
shift 4
pids=()
for rank in 0 1; do
  SLURM_PROCID=$rank SLURM_LOCALID=$rank setsid "$@" & pids+=($!)
done
echo "${pids[@]}" > pids
trap : USR1
code=0
for pid in "${pids[@]}"; do
  while kill -0 "$pid" 2>/dev/null; do wait "$pid" && true; last=$?; done
  [ "${last:-0}" -eq 0 ] || code=$last
done
exit $code
""",
    # All processes of a task hear of it.
    "scancel": 'echo "$@" >> calls; for pid in $(cat pids); do kill -USR1 -- -"$pid"; done',
    "scontrol": 'if [ "$1" = show ]; then echo localhost; else echo "$@" >> calls; fi',
}

# Stands for train.py: waits to be asked to stop; "fail" among its options makes it fail.
TRAIN = """
import os, signal, sys, time
if "fail" in sys.argv:
    sys.exit(1)
if "ecc" in sys.argv:
    sys.exit(75)
if "watchdog" in sys.argv:
    os.abort()
stop = []
signal.signal(signal.SIGUSR1, lambda *_: stop.append(1))
open("gpu-" + os.environ["RANK"], "w").write(os.environ["LOCAL_RANK"] + " " + os.environ["CUDA_VISIBLE_DEVICES"])
open("environment", "w").write(os.environ["PYTORCH_ALLOC_CONF"] + " " + os.environ["TRITON_CACHE_DIR"])
open("rank-" + os.environ["RANK"], "w").write(os.environ["WORLD_SIZE"] + " " + " ".join(sys.argv[1:]))
deadline = time.monotonic() + 60
while not stop and "finish" not in sys.argv and time.monotonic() < deadline:
    time.sleep(0.05)
"""


@pytest.fixture
def job(tmp_path):
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in COMMANDS.items():
        (commands / name).write_text(f"#!/usr/bin/env bash\n{text}\n", encoding="utf-8")
        (commands / name).chmod(0o755)
    (tmp_path / "train.py").write_text(TRAIN, encoding="utf-8")

    def start(*options: str, **more: str) -> subprocess.Popen:
        environment = {
            **os.environ,
            "PATH": f"{commands}:{os.environ['PATH']}",
            "SLURM_GPUS_ON_NODE": "2",
            "SLURM_JOB_NUM_NODES": "1",
            "SLURM_JOB_ID": "4711",
            "SLURM_JOB_NODELIST": "localhost",
            "TMPDIR": str(tmp_path),
            **more,
        }
        return subprocess.Popen(
            ["bash", str(SCRIPT), *options], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
        )

    return tmp_path, start


def calls(directory: Path) -> list[str]:
    path = directory / "calls"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def test_requeues_on_the_time_limit(job):
    directory, start = job
    process = start("--exp-dir", "a b")
    deadline = time.monotonic() + 60
    while not (directory / "rank-1").exists() or not (directory / "rank-0").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR1)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert calls(directory) == ["--signal=USR1 4711", "requeue 4711"]
    assert (directory / "rank-1").read_text(encoding="utf-8") == "2 --exp-dir a b"
    assert (directory / "gpu-1").read_text(encoding="utf-8") == "0 1"  # one visible GPU, its index 0
    assert "--cpus-per-task=8 --cpu-bind=cores" in (directory / "srun-options").read_text(encoding="utf-8")
    memory, cache = (directory / "environment").read_text(encoding="utf-8").split()
    assert memory == "expandable_segments:True" and cache.startswith(f"{directory}/triton-")


@pytest.mark.parametrize("option, code", [("ecc", 75), ("watchdog", 134)])
def test_requeues_after_failures_of_machines(job, option, code):
    """Of one that has run for a while: MachineError's code, and NCCL's watchdog, which aborts."""
    directory, start = job
    process = start(option, REQUEUE_AFTER="0")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code and calls(directory) == ["requeue 4711"]
    assert f"failed with {code}, which is its machine's" in output
    assert not list(directory.glob(".slurm*"))


@pytest.mark.parametrize("option, code, after", [("finish", 0, "0"), ("fail", 1, "0"), ("ecc", 75, "600")])
def test_does_not_requeue_otherwise(job, option, code, after):
    directory, start = job
    process = start(option, REQUEUE_AFTER=after)
    process.communicate(timeout=60)
    assert process.returncode == code
    assert calls(directory) == []


@pytest.mark.parametrize("task, corpus, parts", [(1, "csj", "eval2"), (0, "an4", "test"), (1, "an4", None)])
def test_decoding_takes_the_parts_of_the_corpus(tmp_path, task, corpus, parts):
    """A task of the array a test part; those beyond end quietly."""
    (tmp_path / "decode.py").write_text("import sys\nprint(*sys.argv[1:])\n", encoding="utf-8")
    (tmp_path / "fbank").mkdir()
    (tmp_path / "fbank/corpus.json").write_text(f'{{"corpus": "{corpus}"}}', encoding="utf-8")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3").symlink_to(sys.executable)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", SCRIPT.with_name("decode.sbatch"), "--manifest-dir", "fbank", "--epoch", "4"],
        cwd=tmp_path,
        env={**os.environ, "SLURM_ARRAY_TASK_ID": str(task), "PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    expected = f"--parts {parts} --manifest-dir fbank --epoch 4" if parts else "nothing to do: the test parts are test"
    assert done.stdout.strip() == expected
